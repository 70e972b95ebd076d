"""Report every process of the node, for operators: which is which, its state and its memory.

[front]
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import psutil
from msgspec.structs import replace

from mlx_worker.api.context import CONTEXT
from mlx_worker.api.middleware.responses import json_response

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aiohttp import web

    from mlx_worker.supervisor.node import Node

Kind = Literal["front", "model", "rank", "keeper", "spare", "parser", "helper", "assertion"]

_PARSER_TITLE: Final = "mlx-worker: parser"
"""The beginning of the title of the process that parses large bodies."""


class ProcessEntry(msgspec.Struct, frozen=True):
    """One process. `model` and `folder` are the model that it serves or helps, else null.

    An assertion keeps a Mac awake. A rank is a further process of a model, which its keeper starts
    and ends.

    `residentBytes` is null for a process that has just ended.
    """

    kind: Kind
    pid: int
    state: str
    residentBytes: int | None  # noqa: N815  (the spelling of `/health`)
    model: str | None = None
    folder: str | None = None


class ProcessList(msgspec.Struct, frozen=True):
    """The processes of this node, the front first."""

    processes: list[ProcessEntry]


class MeasuredProcess(msgspec.Struct, frozen=True):
    """What the system says of a process below the front."""

    parent: int
    resident_bytes: int
    title: str


async def processes(request: web.Request) -> web.Response:
    """Serve `GET /admin/processes`. The system is asked on a thread: it may take its time."""
    context = request.app[CONTEXT]
    measured = await asyncio.to_thread(measure, os.getpid())
    assertion = context.sleep_assertion.pid if context.sleep_assertion else None
    return json_response(ProcessList(list(_entries(context.node, measured, assertion))))


def measure(front: int) -> dict[int, MeasuredProcess]:
    """Return what the system says of a process and of all processes below it."""
    process = psutil.Process(front)
    found = {}
    for each in (process, *process.children(recursive=True)):
        try:
            with each.oneshot():
                title = " ".join(each.cmdline()[:1])
                found[each.pid] = MeasuredProcess(each.ppid(), each.memory_info().rss, title)
        except psutil.Error:  # ended meanwhile, or a zombie
            continue
    return found


def _entries(
    node: Node, measured: Mapping[int, MeasuredProcess], assertion: int | None
) -> Iterator[ProcessEntry]:
    front = os.getpid()
    yield ProcessEntry(
        "front", front, "draining" if node.draining else "ready", _resident(measured, front)
    )
    models = dict(_model_entries(node, measured))
    models |= dict(_rank_entries(node, measured, models))
    yield from models.values()
    waiting = set(node.spare_pool.waiting)
    for pid, process in measured.items():
        if pid == front or pid in models:
            continue
        if owner := models.get(process.parent):
            model, folder = owner.model, owner.folder
            yield ProcessEntry("helper", pid, "running", process.resident_bytes, model, folder)
        elif process.title.startswith(_PARSER_TITLE):
            yield ProcessEntry("parser", pid, "running", process.resident_bytes)
        elif pid == assertion:
            yield ProcessEntry("assertion", pid, "held", process.resident_bytes)
        else:
            state = "waiting" if pid in waiting else "starting"
            yield ProcessEntry("spare", pid, state, process.resident_bytes)


def _model_entries(
    node: Node, measured: Mapping[int, MeasuredProcess]
) -> Iterator[tuple[int, ProcessEntry]]:
    for model in node.models.values():
        status, folder = model.child.status, model.planned.folder
        if status.pid is not None:
            # A child's own figure has the memory of its device too.
            resident = status.resident_bytes or _resident(measured, status.pid)
            yield (
                status.pid,
                ProcessEntry(
                    "model",
                    status.pid,
                    model.child.state.value,
                    resident,
                    model.config.id,
                    str(folder.path) if folder else None,
                ),
            )


def _rank_entries(
    node: Node,
    measured: Mapping[int, MeasuredProcess],
    models: Mapping[int, ProcessEntry],
) -> Iterator[tuple[int, ProcessEntry]]:
    """Yield the further processes of models with several ranks, and their keepers.

    Of a rank on another host, the process here is the command that runs its keeper there.
    """
    for model in node.models.values():
        for rank in model.child.status.ranks[1:]:
            owner = models.get(model.child.status.ranks[0].pid)
            if owner is None:
                continue
            yield _entry_of(owner, "keeper", rank.started, measured)
            if rank.pid in measured and rank.started in _ancestors(measured, rank.pid):
                yield _entry_of(owner, "rank", rank.pid, measured)


def _entry_of(
    owner: ProcessEntry, kind: Kind, pid: int, measured: Mapping[int, MeasuredProcess]
) -> tuple[int, ProcessEntry]:
    return pid, replace(owner, kind=kind, pid=pid, residentBytes=_resident(measured, pid))


def _ancestors(measured: Mapping[int, MeasuredProcess], pid: int) -> Iterator[int]:
    """Yield the processes between one of this node's and the front, upwards."""
    while pid in measured:
        pid = measured[pid].parent
        yield pid


def _resident(measured: Mapping[int, MeasuredProcess], pid: int) -> int | None:
    return measured[pid].resident_bytes if pid in measured else None
