"""The configuration file read again while the node runs. [front]"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import msgspec

from mlx_worker.config import Config, load_config
from mlx_worker.errors import InvalidRequest, WorkerError
from mlx_worker.logs import Entry
from mlx_worker.plan import plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_worker.api.border import Border
    from mlx_worker.plan import PlannedModel
    from mlx_worker.supervisor.node import Node

log = logging.getLogger(__name__)


class CannotReload(InvalidRequest):
    """The file says something that cannot be done: nothing has changed."""

    status: ClassVar[int] = 422
    code: ClassVar[str] = "config_error"


class Reloaded(msgspec.Struct, frozen=True):
    """What came of it: models by what happened to them, and keys that only a restart heeds."""

    added: list[str]
    removed: list[str]
    restarted: list[str]
    changed: list[str]
    needs_restart: list[str]


class Reload:
    """Reads the file that the node was started from, and has the node follow it."""

    def __init__(self, running: Config, node: Node, border: Border) -> None:
        self._running = running
        self._node = node
        self._border = border
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self) -> Reloaded:
        """Apply what the file says now.

        Raises CannotReload, or NodeDraining; nothing has changed then, and the log says why.
        """
        async with self._one_at_a_time:
            try:
                read = await asyncio.to_thread(_read, self._running.file, self._border)
                changes = self._node.reload(read.planned)
                read.hold()
            except WorkerError as error:
                # The error's own words are all there is to say.
                log.error(Entry("nothing was reloaded", why=error.message))  # noqa: TRY400
                raise
        done = Reloaded(
            added=list(changes.added),
            removed=list(changes.removed),
            restarted=list(changes.restarted),
            changed=list(changes.changed),
            needs_restart=self._unheeded(read.config),
        )
        self._node.events.happened("reload", **msgspec.structs.asdict(done))
        return done

    def _unheeded(self, new: Config) -> list[str]:
        """Keys of what is set up once, at the start. `models_dir` is looked at by every plan."""
        return [
            f"{section}.{key}"
            for section in ("server", "supervisor", "log", "telemetry")
            for key in getattr(new, section).__struct_fields__
            if key != "models_dir"
            and not (section == "server" and self._border.heeds(key, new.server))
            and getattr(getattr(new, section), key) != getattr(getattr(self._running, section), key)
        ]


@dataclass(frozen=True, slots=True)
class _Read:
    """All that stands in the file and in the files that it names; `hold` lets these hold."""

    config: Config
    planned: list[PlannedModel]
    hold: Callable[[], None]


def _read(file: Path | None, border: Border) -> _Read:
    if file is None:
        raise CannotReload("this node was not started from a file")
    try:
        config = load_config(file)
        return _Read(config, plan(config), border.reread(config.server))
    except WorkerError as error:
        raise CannotReload(error.message, param=error.param) from error
