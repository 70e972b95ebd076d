"""What a changed configuration means for the models that run. Pure. [front]"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlx_worker.wire.messages import Load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlx_worker.models.resolve import PlannedModel


@dataclass(frozen=True, slots=True)
class Changes:
    """Models by what becomes of them; `changed` are those that go on in their process.

    A model whose folder is another one is removed and added: what the old one has begun, it ends.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def load_of(planned: PlannedModel) -> Load:
    """What a model's process is told, but for its share of the node's memory."""
    model = planned.config
    return Load(
        model=model.id,
        path=str(planned.folder.path) if planned.folder else "",
        max_concurrency=model.max_concurrency,
        context_length=model.context_length,
        cache_bytes=int(model.cache_bytes),
        kv_bytes=0,
        prefill_pause=model.prefill_pause,
        chat_template=planned.chat_template,
        tools=model.tools,
    )


def with_known_folders(
    before: Mapping[str, PlannedModel], after: Sequence[PlannedModel]
) -> list[PlannedModel]:
    """Give models that were not inspected the folder that is known of the same configured path."""
    return [
        replace(model, folder=before[model.config.id].folder)
        if model.folder is None
        and model.config.id in before
        and before[model.config.id].config.path == model.config.path
        else model
        for model in after
    ]


def _process_of(planned: PlannedModel) -> tuple[Load, Mapping[str, str]]:
    """Return what only a new process goes by: what it is told, and its environment."""
    return load_of(planned), planned.config.env


def compare(before: Mapping[str, PlannedModel], after: Sequence[PlannedModel]) -> Changes:
    """What changes from one configuration to the next."""
    now = {it.config.id: it for it in after}
    kept = {
        id_: before[id_]
        for id_, it in now.items()
        if id_ in before and _is_same_folder(before[id_], it)
    }
    restarted = [id_ for id_, old in kept.items() if _process_of(old) != _process_of(now[id_])]
    return Changes(
        added=tuple(id_ for id_ in now if id_ not in kept),
        removed=tuple(id_ for id_ in before if id_ not in kept),
        restarted=tuple(restarted),
        changed=tuple(
            id_
            for id_, old in kept.items()
            if id_ not in restarted and old.config != now[id_].config
        ),
    )


def _is_same_folder(before: PlannedModel, after: PlannedModel) -> bool:
    """Return True for one folder, or, where a folder was not inspected, for one configured path."""
    if before.folder is None or after.folder is None:
        return before.config.path == after.config.path
    return before.folder.path == after.folder.path
