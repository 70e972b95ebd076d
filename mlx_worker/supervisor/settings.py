"""Converts the configuration's `[supervisor]` section to the settings of its parts.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

from mlx_worker.config.schema import SupervisorConfig
from mlx_worker.config.sizes import MODELS_SHARE
from mlx_worker.models.weight_types import WeightTypes
from mlx_worker.supervisor.process.launch.spares import StandbyPolicy
from mlx_worker.supervisor.process.lifecycle import Timings
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.requests.resume_policy import KEEPALIVE_INTERVAL, ResumePolicy

if TYPE_CHECKING:
    from mlx_worker.config.schema import Config, ServerConfig


def timings(config: SupervisorConfig) -> Timings:
    """Return how long a child may take."""
    return Timings(
        start=config.load_stall_timeout,
        load=config.load_stall_timeout,
        stall=config.stall_timeout,
        drain=config.drain_timeout,
    )


def restart_policy(config: SupervisorConfig) -> RestartPolicy:
    """Return when a child that ended is started again."""
    return RestartPolicy(
        base=config.backoff_initial,
        ceiling=config.backoff_max,
        intensity=config.max_restarts,
        period=config.restart_window,
        retry_initial=config.retry_initial,
        retry_max=config.retry_max,
    )


def memory_limit(config: SupervisorConfig) -> int:
    """Return the bytes that the processes of all models may take together."""
    return (config.memory_limit or MODELS_SHARE).of(psutil.virtual_memory().total)


def weight_types(config: Config | None, *, fast_blas: bool) -> WeightTypes:
    """Return the floating-point types of weights; `fast_blas`: models compute on a fast CPU."""
    return WeightTypes(fast_blas, memory_limit(config.supervisor if config else SupervisorConfig()))


def resume_policy(config: SupervisorConfig, server: ServerConfig) -> ResumePolicy:
    """Return how long requests wait for a child, and how many crashes they may be in."""
    return ResumePolicy(
        timeout=config.resume_timeout,
        load_wait=config.load_wait,
        max_crashes=config.max_crashes,
        keepalive_interval=server.first_byte_timeout or KEEPALIVE_INTERVAL,
    )


def standby_policy(config: SupervisorConfig) -> StandbyPolicy:
    """Return how many spare processes there are to be."""
    return StandbyPolicy(spares=config.standby, start=config.load_stall_timeout)
