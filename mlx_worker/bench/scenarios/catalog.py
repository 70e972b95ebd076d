"""The scenarios by the names of the command line, in the order of measurement.

[bench]
"""

from __future__ import annotations

from typing import TypeAlias

from mlx_worker.bench.scenarios.agent import Agent
from mlx_worker.bench.scenarios.cached_prompts import CachedPrompts
from mlx_worker.bench.scenarios.cancel import CancelledStreams
from mlx_worker.bench.scenarios.crash import Crash
from mlx_worker.bench.scenarios.disk_beside import DiskBeside
from mlx_worker.bench.scenarios.health import Health
from mlx_worker.bench.scenarios.late_arrival import LateArrivals
from mlx_worker.bench.scenarios.long_prompt import LongPrompt
from mlx_worker.bench.scenarios.many_models import ManyModels
from mlx_worker.bench.scenarios.prefix import Prefix
from mlx_worker.bench.scenarios.restart_prefix import RestartPrefix
from mlx_worker.bench.scenarios.sessions import Sessions
from mlx_worker.bench.scenarios.speculation import SpeculationGain
from mlx_worker.bench.scenarios.start import Start
from mlx_worker.bench.scenarios.streams import Streams
from mlx_worker.bench.scenarios.two_models import TwoModels

AnyScenario: TypeAlias = (
    Agent
    | CachedPrompts
    | CancelledStreams
    | Crash
    | DiskBeside
    | Health
    | LongPrompt
    | ManyModels
    | LateArrivals
    | Prefix
    | RestartPrefix
    | Sessions
    | SpeculationGain
    | Start
    | Streams
    | TwoModels
)
"""Whatever can be put on a server; those without a name below belong to curves of growth."""

NAMED: dict[str, AnyScenario] = {
    "streams-1": Streams(streams=1, requests=16),
    "streams-8": Streams(streams=8, requests=8),
    "streams-32": Streams(streams=32, requests=4),
    "streams-128": Streams(streams=128, requests=2),
    "slow-step": Streams(streams=8, requests=4, synthetic="slow"),
    "mixed": Streams(streams=32, requests=4, words=(8, 400), tokens=(8, 256)),
    "newcomer": LateArrivals(),
    "health": Health(),
    "cancel": CancelledStreams(),
    "prefix-1500": Prefix(words=1500),
    "prefix-15000": Prefix(words=15_000),
    "agent": Agent(),
    "long-prompt": LongPrompt(),
    "two-models": TwoModels(),
    "start": Start(),
    "crash": Crash(),
    "restart-prefix": RestartPrefix(),
    "disk-beside": DiskBeside(),
    "speculation-edit": SpeculationGain(trace="edit", synthetic="tiny"),
    "speculation-json": SpeculationGain(trace="json", synthetic="repeating"),
    "speculation-prose": SpeculationGain(trace="prose", synthetic="tiny"),
}
