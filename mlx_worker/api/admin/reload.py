"""Reload the configuration file while the node runs.

The file, the files that it names and the folders of new models are read in daemon threads with a
deadline. So a network share that does not answer blocks neither the node nor the next reload. The
node itself inspects the folders of models that stay.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

import msgspec
from aiohttp import web

from mlx_worker.config.load import load_config
from mlx_worker.errors import InvalidRequest, WorkerError, cause_of
from mlx_worker.logs import Entry
from mlx_worker.models.resolve import inspect_model, model_places, unseen
from mlx_worker.supervisor.starter import ModelFolderAccess
from mlx_worker.system.daemon_threads import call_in_daemon_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_worker.config.schema import Config, ModelConfig
    from mlx_worker.models.folder import ModelFolder
    from mlx_worker.models.resolve import PlannedModel
    from mlx_worker.models.weight_types import WeightTypes
    from mlx_worker.security.credentials import Credentials
    from mlx_worker.supervisor.node import Node

    MakeTypes = Callable[[Config], WeightTypes]
    """Returns the types of weights on this machine, with the memory that a configuration allows."""

log = logging.getLogger(__name__)

T = TypeVar("T")

DISK_TIMEOUT: Final = 10.0
"""Seconds that the disk may take to answer."""


def folder_access(config: Config, types: MakeTypes) -> ModelFolderAccess:
    """Return how the folders of this configuration's models are found and read."""

    def inspect(model: ModelConfig) -> ModelFolder:
        return inspect_model(config, model, types(config))

    return ModelFolderAccess(inspect, partial(model_places, config))


class CannotReload(InvalidRequest):
    """The configuration cannot be applied; nothing has changed."""

    status: ClassVar[int] = 422
    code: ClassVar[str] = "config_error"


class Reloaded(msgspec.Struct, frozen=True):
    """What a reload changed: models by what happened to them, and keys that need a restart."""

    added: list[str]
    removed: list[str]
    restarted: list[str]
    changed: list[str]
    needs_restart: list[str]


class ConfigReloader:
    """Reads the file that the node was started from, and applies it to the node."""

    def __init__(
        self, running: Config, node: Node, credentials: Credentials, types: MakeTypes
    ) -> None:
        self._running = running
        self._types = types
        self._node = node
        self._credentials = credentials
        self._loaded = running
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self) -> Reloaded:
        """Apply the file as it is now.

        Raises CannotReload or NodeDraining; then nothing has changed, and the log says why.
        """
        async with self._one_at_a_time:
            try:
                update = await self._within_deadline(
                    partial(_load_update, self._running.file, self._credentials),
                    "the configuration file",
                )
                planned = await self._plan_models(update.config)
                self._node.drain.raise_if_active()
                is_disk_changed = await self._node.kv_folder.apply(update.config.cache)
                folders = folder_access(update.config, self._types)
                changes = self._node.reload(planned, folders, is_disk_changed=is_disk_changed)
                update.apply_credentials()
                self._loaded = update.config
            except WorkerError as error:
                # The message says all; a traceback would add nothing.
                log.error(Entry("nothing was reloaded", why=error.message))  # noqa: TRY400
                raise
        reloaded = Reloaded(
            added=list(changes.added),
            removed=list(changes.removed),
            restarted=list(changes.restarted),
            changed=list(changes.changed),
            needs_restart=self._keys_needing_restart(update.config),
        )
        self._node.events.record("reload", **msgspec.structs.asdict(reloaded))
        return reloaded

    @property
    def effective(self) -> Config:
        """Return the configuration that the node goes by now.

        Models and `[cache]` are those of the last reload, and so are the keys of `[server]` that a
        reload applies. All other keys are those of the start.
        """
        new, server = self._loaded.server, self._running.server
        reloaded = {
            key: getattr(new, key)
            for key in server.__struct_fields__
            if key == "models_dir" or self._credentials.is_reloadable(key, new)
        }
        return msgspec.structs.replace(
            self._running,
            models=tuple(model.config for model in self._node.models.values()),
            server=msgspec.structs.replace(server, **reloaded),
            cache=self._loaded.cache,
        )

    async def _plan_models(self, config: Config) -> list[PlannedModel]:
        """Inspect the folders of models that are new or have moved; the others are known."""
        plans = [self._plan_model(config, model) for model in unseen(config)]
        return list(await asyncio.gather(*plans))

    async def _plan_model(self, config: Config, model: PlannedModel) -> PlannedModel:
        known = self._node.models.get(model.config.id)
        stays = (
            known is not None
            and known.config.path == model.config.path
            and known.config.dtype == model.config.dtype
        )
        has_template = model.config.chat_template or (known and known.config.chat_template)
        if (
            stays
            and not has_template
            and config.server.models_dir == self._loaded.server.models_dir
        ):
            return model
        what = f"the folder of model {model.config.id!r}"
        inspect = partial(inspect_model, config, model.config, self._types(config))
        folder = await self._within_deadline(inspect, what)
        return replace(model, folder=folder)

    async def _within_deadline(self, read: Callable[[], T], what: str) -> T:
        """Read from the disk in a daemon thread. Raises CannotReload with the reason."""
        reading = call_in_daemon_thread(read, f"read {what}")
        with contextlib.suppress(TimeoutError):
            async with self._node.pause.timeout(DISK_TIMEOUT):
                await asyncio.wait({reading})
        if not reading.done():
            raise CannotReload(f"{what} does not answer within {DISK_TIMEOUT:g} s")
        try:
            return reading.result()
        except WorkerError as error:
            raise CannotReload(error.message, param=error.param) from error
        except Exception as error:
            raise CannotReload(f"{what} cannot be read: {cause_of(error)}") from error

    def _keys_needing_restart(self, new: Config) -> list[str]:
        """Return the changed keys that are read at the start only, unlike `models_dir`."""
        return [
            f"{section}.{key}"
            for section in ("server", "supervisor", "log", "telemetry", "cpu")
            for key in getattr(new, section).__struct_fields__
            if key != "models_dir"
            and not (section == "server" and self._credentials.is_reloadable(key, new.server))
            and getattr(getattr(new, section), key) != getattr(getattr(self._running, section), key)
        ]


CONFIG_RELOADER: web.AppKey[ConfigReloader] = web.AppKey("config_reloader", ConfigReloader)


@dataclass(frozen=True, slots=True)
class _ConfigUpdate:
    """The contents of the file and of the files that it names."""

    config: Config
    apply_credentials: Callable[[], None]


def _load_update(file: Path | None, credentials: Credentials) -> _ConfigUpdate:
    if file is None:
        raise CannotReload("this node was not started from a file")
    config = load_config(file)
    return _ConfigUpdate(config, credentials.load_new(config.server))
