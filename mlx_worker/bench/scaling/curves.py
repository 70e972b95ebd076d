"""The curves by their names, in the order of measurement.

[bench]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.bench.scaling.curve import Curve, CurveLine, Order
from mlx_worker.bench.scaling.subjects import alone, under_load
from mlx_worker.bench.scenarios.cached_prompts import CachedPrompts
from mlx_worker.bench.scenarios.many_models import ManyModels
from mlx_worker.bench.scenarios.sessions import Sessions
from mlx_worker.bench.scenarios.streams import Streams
from mlx_worker.bench.servers.baseline import Baseline
from mlx_worker.bench.servers.node import StartedNode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Nano = Callable[..., list[Path]]

BESIDE_THE_WORDS = 12
"""Tokens that the chat template adds around a user's words."""

SESSIONS = (1, 10, 100, 1000, 10_000)
PROMPTS = (1, 10, 100, 500, 1000, 2000)


def curves(model: Callable[[str], Path]) -> dict[str, Curve]:
    """Return all curves, on the synthetic models that `model` returns by their names."""

    def nano(count: int = 1) -> list[Path]:
        return [model("nano")] * count

    all_curves = (
        _streams(nano),
        _prompt(nano),
        _models(nano),
        _sessions(nano),
        _line(),
        _cached(nano),
        _prompt_cache(),
    )
    return {curve.name: curve for curve in all_curves}


def _streams(nano: Nano) -> Curve:
    def scenario(streams: int) -> Streams:
        return Streams(streams=streams, requests=min(16, max(2, 128 // streams)))

    return Curve(
        name="streams",
        title="streams side by side, 64 tokens each",
        axis="streams",
        sizes=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        order=Order.SHUFFLED,
        subjects=(
            under_load(StartedNode(), scenario, lambda _: nano()),
            under_load(Baseline(), scenario, lambda _: nano()),
        ),
        lines=(
            CurveLine("cpu", "CPU a token", "µs", 0),
            CurveLine("cpu_front", "CPU a token, front", "µs", 0),
            CurveLine("cpu_child", "CPU a token, child", "µs", 0),
            CurveLine("throughput", "throughput", "tokens/s", None),
            CurveLine("ttft_p50", "time to first token, p50", "ms", 1),
            CurveLine("resident_front", "resident memory, front", "MB", 1),
        ),
    )


def _prompt(nano: Nano) -> Curve:
    def scenario(tokens: int) -> Streams:
        words = tokens - BESIDE_THE_WORDS
        return Streams(
            streams=1,
            requests=min(128, max(3, 8192 // tokens)),
            words=(words, words),
            tokens=(1, 1),
        )

    return Curve(
        name="prompt",
        title="one prompt at a time, one token answered",
        axis="tokens of the prompt",
        sizes=(32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
        order=Order.SHUFFLED,
        subjects=(
            under_load(StartedNode(), scenario, lambda _: nano()),
            under_load(Baseline(), scenario, lambda _: nano()),
        ),
        lines=(
            CurveLine("ttft_p50", "time to first token, p50", "ms", 1),
            CurveLine("cpu", "CPU a prompt token", "µs", 0, per_size=True),
            CurveLine("cpu_front", "CPU a prompt token, front", "µs", 0, per_size=True),
            CurveLine("cpu_child", "CPU a prompt token, child", "µs", 0, per_size=True),
        ),
    )


def _models(nano: Nano) -> Curve:
    return Curve(
        name="models",
        title="models of one node, 16 streams dealt out to them",
        axis="models",
        sizes=(1, 2, 4, 8),
        order=Order.APART,
        subjects=(under_load(StartedNode(), lambda _: ManyModels(), nano),),
        lines=(
            CurveLine("cpu_front", "CPU a token, front", "µs", 0),
            CurveLine("cpu_child", "CPU a token, children", "µs", 1),
            CurveLine("resident_front", "resident memory, front", "MB", 1),
            CurveLine("resident_child", "resident memory, children", "MB", 1),
            CurveLine("ready", "exec to all ready", "ms", 1),
            CurveLine("health_p50", "/health, p50", "ms", 1),
            CurveLine("health_bytes", "/health, body", "bytes", 1),
        ),
    )


def _sessions(nano: Nano) -> Curve:
    before = dict(zip(SESSIONS, (0, *SESSIONS), strict=False))
    return Curve(
        name="sessions",
        title="sessions that were there, each with one short turn",
        axis="sessions",
        sizes=SESSIONS,
        order=Order.RISING,
        subjects=(
            under_load(
                StartedNode(),
                lambda item: Sessions(before=before[item], sessions=item),
                lambda _: nano(),
            ),
        ),
        lines=(
            CurveLine("cpu_request_front", "CPU a request, front", "µs", 0),
            CurveLine("cpu_request_child", "CPU a request, child", "µs", 0),
            CurveLine("resident_front", "resident memory, front", "MB", 0),
            CurveLine("resident_child", "resident memory, child", "MB", 1),
            CurveLine("health_p50", "/health, p50", "ms", 0),
            CurveLine("health_bytes", "/health, body", "bytes", 0),
        ),
    )


def _line() -> Curve:
    module = "mlx_worker.bench.scaling.fair_queue"
    shapes = ("a session each", "ten of each session")
    return Curve(
        name="line",
        title="requests that wait in line for one model, by themselves",
        axis="requests in line",
        sizes=SESSIONS,
        order=Order.SHUFFLED,
        subjects=tuple(alone(module, shape) for shape in shapes),
        lines=(
            CurveLine("turn", "joining the queue when a slot becomes free", "µs", 0),
            CurveLine("arrival", "coming to a full line", "µs", 0),
        ),
    )


def _cached(nano: Nano) -> Curve:
    before = dict(zip(PROMPTS, (0, *PROMPTS), strict=False))
    return Curve(
        name="cached",
        title="cached prompts of 200 words",
        axis="cached prompts",
        sizes=PROMPTS,
        order=Order.RISING,
        subjects=(
            under_load(
                StartedNode(),
                lambda item: CachedPrompts(before=before[item], prompts=item),
                lambda _: nano(),
            ),
        ),
        lines=(
            CurveLine("cold", "first token of a new prompt, p50", "ms", 0),
            CurveLine("warm", "first token of a cached prompt, p50", "ms", 0),
            CurveLine("resident_front", "resident memory, front", "MB", 0),
            CurveLine("resident_child", "resident memory, child", "MB", 1),
        ),
    )


def _prompt_cache() -> Curve:
    module = "mlx_worker.bench.scaling.prompt_cache"
    shapes = ("strangers", "one system prompt", "branches")
    return Curve(
        name="prompt-cache",
        title="the prompt cache by itself",
        axis="entries",
        sizes=PROMPTS,
        order=Order.SHUFFLED,
        subjects=tuple(alone(module, shape) for shape in shapes),
        lines=(
            CurveLine("lookup", "looking a prompt up", "µs", 0),
            CurveLine("keep", "keeping one", "µs", 0),
            CurveLine("forget", "forgetting one", "µs", 0),
        ),
    )
