"""Compares two configurations: what a change means for running models. Pure.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlx_worker.wire.messages import Load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlx_worker.models.resolve import PlannedModel


@dataclass(frozen=True, slots=True)
class Changes:
    """The ids of models by what happens to them; `changed` models keep their process.

    A model that gets another folder is removed and added: the old process ends what it has begun.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def load_of(planned: PlannedModel) -> Load:
    """Return what a model's process is told to load, without the node's memory and disk."""
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
        remember_turns=model.remember_turns,
        speculation=model.speculation,
        draft=str(planned.folder.draft) if planned.folder and planned.folder.draft else "",
        dtype=planned.folder.dtype if planned.folder else "",
        report_blocks=model.kv_events is not None,
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
        and before[model.config.id].config.draft == model.config.draft
        else model
        for model in after
    ]


def _process_of(planned: PlannedModel) -> tuple[object, ...]:
    """Return the settings that only a new process applies.

    They are what the process loads, its environment, whether it keeps KV on disk, and over how many
    processes the model is split.
    """
    config = planned.config
    return load_of(planned), config.env, config.disk_cache, config.ranks, config.split


def compare(
    before: Mapping[str, PlannedModel],
    after: Sequence[PlannedModel],
    *,
    is_disk_changed: bool = False,
) -> Changes:
    """Return what changes from one configuration to the next.

    `is_disk_changed`: so does the folder of KV on disk, or one of its bounds.
    """
    now = {planned.config.id: planned for planned in after}
    kept = {
        id_: before[id_]
        for id_, planned in now.items()
        if id_ in before and _is_same_folder(before[id_], planned)
    }
    restarted = [
        id_
        for id_, old in kept.items()
        if _process_of(old) != _process_of(now[id_])
        or (is_disk_changed and now[id_].config.keeps_kv_on_disk)
    ]
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
