"""The section `[supervisor]`: when a child is stopped, restarted and given up.

All keys but the counts, `memory_limit` and `prevent_sleep` are in seconds. [front]
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mlx_worker.config.schema.types import Interval, Seconds
from mlx_worker.config.sizes import MemoryLimit


class SupervisorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the children, of their restarts, and of the requests that wait for them."""

    stall_timeout: Annotated[
        Interval,
        Meta(description="Seconds after which a child that has work and no progress is killed."),
    ] = 120.0
    load_stall_timeout: Annotated[
        Interval,
        Meta(
            description="Seconds after which a starting child is killed if it has sent no first"
            " message, or has read no further byte of the weights."
        ),
    ] = 120.0
    resume_timeout: Annotated[
        Seconds,
        Meta(
            description="Seconds that the generations of a child that died wait for the next child."
        ),
    ] = 300.0
    max_crashes: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="Crashes with one request in flight after which that request is refused"
            " and not run again.",
        ),
    ] = 3
    max_restarts: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Ends of a model's child within `restart_window` that are followed by a"
            " restart; after one more the model is given up.",
        ),
    ] = 6
    restart_window: Annotated[
        Interval, Meta(description="Seconds in which `max_restarts` counts.")
    ] = 120.0
    backoff_initial: Annotated[
        Seconds,
        Meta(
            description="Longest pause in seconds before the first restart. It doubles with each"
            " further one; the pause is random."
        ),
    ] = 0.2
    backoff_max: Annotated[
        Seconds, Meta(description="Seconds up to which `backoff_initial` doubles.")
    ] = 30.0
    load_wait: Annotated[
        Seconds,
        Meta(
            description="Seconds that new requests wait for a model that is loading; 0 refuses"
            " them with 503 at once. In a stream that has begun early (`first_byte_timeout`) they"
            " count from the last progress of the loading."
        ),
    ] = 30.0
    drain_timeout: Annotated[
        Seconds,
        Meta(description="Seconds that running generations may take to finish in a drain."),
    ] = 30.0
    standby: Annotated[
        int,
        Meta(
            ge=0,
            le=8,
            description="Spare processes that have everything imported: a model that starts in one"
            " has only its weights to read.",
        ),
    ] = 1
    memory_limit: Annotated[
        MemoryLimit | None,
        Meta(
            description="Memory for the processes of all models together: a share of the machine,"
            ' or bytes as in "96GB". Without this key: 0.8 of the machine, on macOS 0.75.'
        ),
    ] = None
    retry_initial: Annotated[
        Interval,
        Meta(
            description="Longest pause in seconds before a given-up model is tried again. It"
            " doubles with each further try. A changed folder is tried at once."
        ),
    ] = 30.0
    retry_max: Annotated[
        Interval, Meta(description="Seconds up to which `retry_initial` doubles.")
    ] = 600.0
    prevent_sleep: Annotated[
        Literal["while_working", "always", "never"],
        Meta(
            description="macOS only: when the node keeps the machine from sleeping. While working:"
            " requests run or wait, or a model loads, and one minute longer. The display may sleep."
        ),
    ] = "while_working"
    exit_when_failed_for: Annotated[
        Interval | None,
        Meta(
            description="Seconds without any model that can be served after which the node ends"
            " with exit code 70, so that a service manager may restart it. Without this key:"
            " never."
        ),
    ] = None
