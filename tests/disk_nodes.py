"""A real node whose KV is on disk, through restarts, kills, unloads and swaps.

The node's folder and the folder of the KV stay; the processes come and go.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from tests.processes import COMMAND, RunningNode, eventually, has_ended, running_node

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

RESTLESS: Final = "backoff_initial = 0\nmax_restarts = 100000"
"""A node that starts a child again at once, however often the child was killed."""

AMPLE: Final = "100GB"
"""Bytes that no test writes in a day."""


def cache_section(path: Path, *, capacity: str = "1GiB", free_min: str = "1MB") -> str:
    """Return what the section `[cache]` says: KV on disk in `path`, and its bounds."""
    return (
        f'disk = true\npath = "{path}"\ndisk_cache_bytes = "{capacity}"\n'
        f'disk_writes_per_day = "{AMPLE}"\ndisk_free_min = "{free_min}"'
    )


class DiskNode:
    """A node with KV on disk that a test can end in any way and start again."""

    def __init__(
        self,
        folder: Path,
        models: Mapping[str, Path],
        *,
        cache: str | None = None,
        supervisor: str = RESTLESS,
        extra: str | Mapping[str, str] = "",
        spares: int = 0,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.folder = folder
        self.disk = folder / "kv"
        self._models = models
        self._cache = cache_section(self.disk) if cache is None else cache
        self._supervisor = supervisor
        self._extra = extra
        self._spares = spares
        self._command = command
        self._stack = contextlib.ExitStack()
        self._node: RunningNode | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def node(self) -> RunningNode:
        """Return the node that runs now."""
        assert self._node is not None
        return self._node

    def start(self) -> None:
        """Start the node, and wait for the models that it loads at once."""
        self._node = self._stack.enter_context(
            running_node(
                self.folder,
                self._models,
                supervisor=self._supervisor,
                extra=self._extra,
                spares=self._spares,
                cache=self._cache,
                command=self._command,
            )
        )
        self._node.wait_until_ready()

    def restart(self) -> None:
        """End the node as an operator does, and start it again."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """End the node as an operator does; the exit code is that of success."""
        assert self.node.stop() == 0, "".join(self.node.log[-20:])
        self._stack.close()

    def kill_front(self) -> None:
        """Kill the node's own process, wait for the children, which find that out, and start."""
        children = self.node.children()
        self.node.process.kill()
        self.node.process.wait()
        eventually(lambda: all(map(has_ended, children)))
        self._stack.close()
        self.start()

    def kill_child(self, model: str) -> None:
        """Kill the process of a model, and wait until another one serves."""
        pid = self.node.model(model)["pid"]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self._serves_in_another(model, pid))

    def _serves_in_another(self, model: str, pid: int) -> bool:
        entry = self.node.model(model)
        return bool(entry["state"] == "ready" and entry["pid"] != pid)

    def unload(self, model: str) -> None:
        """Unload a model; the next request loads the model again."""
        answer = self.node.ask(f"/admin/models/{model}/unload", {})
        assert answer.status in (200, 202), answer.body
        eventually(lambda: self.node.model(model)["pid"] is None)


class SizeWatch:
    """A thread that measures a folder again and again: the most that all its files ever held.

    Files are not measured at one moment. What counts are the files that two measurements in turn
    have found: between the two all of them were there, and none was larger than it is later.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.most = 0
        self.looks = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        before = sizes_in(self._folder)
        while not self._ends.wait(0.002):
            now = sizes_in(self._folder)
            sizes = (min(size, now[file]) for file, size in before.items() if file in now)
            self.most = max(self.most, sum(sizes))
            self.looks += 1
            before = now


def sizes_in(folder: Path) -> dict[tuple[str, int], int]:
    """Return the size of each file below a folder, by its path and inode."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)  # noqa: PTH118  (hundreds of times a second)
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(path)
                sizes[path, found.st_ino] = found.st_size
    return sizes


class DiskUse(NamedTuple):
    """Requests that read from disk, and the tokens of their prompts that came from there."""

    hits: int
    tokens: int

    def since(self, before: DiskUse) -> DiskUse:
        """Return what was read since then."""
        return DiskUse(self.hits - before.hits, self.tokens - before.tokens)


def disk_use(node: RunningNode, model: str) -> DiskUse:
    """Return what a node has read from disk since its start."""
    report = node.ask(f"/cache?model={model}").json
    return DiskUse(report["hitsBySource"]["disk"], report["cachedTokensBySource"]["disk"])


def disk_tokens(node: RunningNode, model: str) -> int:
    """Return how many prompt tokens a node has read from disk since its start."""
    return disk_use(node, model).tokens


def crashes(node: RunningNode) -> list[Any]:
    """Return the events of children that ended and should not have, since the node's start."""
    events: list[dict[str, Any]] = node.ask("/admin/events").json["events"]
    return [event for event in events if event["kind"] == "crash"]


def disk_report(node: RunningNode, model: str) -> dict[str, Any]:
    """Return what a node says of a model's KV on disk; the child tells at most once a second."""
    report: dict[str, Any] = node.ask(f"/cache?model={model}").json["disk"]
    return report
