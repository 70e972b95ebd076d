"""Whether a model's KV events are published, and where: as its configuration says now.

An address that is taken, as for a moment by the model's own predecessor, is tried again. Meanwhile
the log goes on, and a replay has what was missed. [front]
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from mlx_worker.config.addresses import is_loopback

if TYPE_CHECKING:
    from mlx_worker.config.schema import ModelConfig
    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.supervisor.kv_events.log import KvEventLog
    from mlx_worker.supervisor.kv_events.publisher import EventSockets

BIND_AGAIN: Final = 2.0
"""Seconds between two tries to bind an address."""


class _EndpointSettings(NamedTuple):
    endpoint: str
    replay: str | None
    topic: str


class KvEventState(NamedTuple):
    """What was published last; `digest` is the exclusive or of the hashes of all `blocks`.

    `off` is why nothing is published; "" while all is well.
    """

    sequence: int
    blocks: int
    digest: int
    off: str


class KvEventFeed:
    """The publication of one model's log."""

    def __init__(
        self, model: str, log: KvEventLog, events: EventLog, bind_again: float = BIND_AGAIN
    ) -> None:
        self._off = ""
        self._model = model
        self._bind_again = bind_again
        self._log = log
        self._events = events
        self._settings: _EndpointSettings | None = None
        self._sockets: EventSockets | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def state(self) -> KvEventState | None:
        """Return the state of the publication; None if the configuration names no address."""
        if self._settings is None:
            return None
        log = self._log
        return KvEventState(log.next_sequence - 1, log.count, log.digest, self._off)

    def apply(self, config: ModelConfig) -> None:
        """Publish as the configuration says; the first batch of all clears all blocks."""
        endpoint = config.kv_events
        settings = None
        if endpoint is not None:
            settings = _EndpointSettings(endpoint, config.kv_events_replay, config.kv_events_topic)
        if settings == self._settings:
            return
        self.close()
        self._settings = settings
        if settings is not None:
            if not self._log.next_sequence:
                self._log.clear()
            self._open(settings)

    def close(self) -> None:
        """Close the sockets."""
        self._log.on_batch = None
        self._off = ""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
        self._settings = None

    def _open(self, settings: _EndpointSettings) -> None:
        # An extra: only a node that publishes events has it.
        from mlx_worker.supervisor.kv_events.publisher import EventSockets  # noqa: PLC0415

        try:
            self._sockets = EventSockets(self._log, *settings)
        except OSError as error:
            if not self._off:
                self._off = f"{settings.endpoint}: {error.strerror}"
                self._record(logging.WARNING, off=self._off)
            self._retry = asyncio.get_running_loop().call_later(
                self._bind_again, self._open, settings
            )
            return
        self._off = ""
        self._log.on_batch = self._sockets.send
        leaves = "" if is_loopback(_host_of(settings.endpoint)) else "token ids leave this machine"
        self._record(logging.WARNING if leaves else logging.INFO, off="", warning=leaves)

    def _record(self, level: int, *, off: str, warning: str = "") -> None:
        assert self._settings is not None
        self._events.record(
            "kv events",
            self._model,
            level=level,
            endpoint=self._settings.endpoint,
            off=off,
            warning=warning,
        )


def _host_of(endpoint: str) -> str:
    host = endpoint.removeprefix("tcp://").rpartition(":")[0]
    return host.strip("[]")
