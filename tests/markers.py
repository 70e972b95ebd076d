"""Which tests start processes, use MLX or have a whole node: the markers, mostly by folder.

A folder or a file of `tests/` is named here; where only a few tests of a file differ from the
others, they have the marker themselves. A test without the marker `process` that starts a process
fails (`tests/conftest.py`).
"""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

TESTS: Final = Path(__file__).parent

WHOLE_NODES: Final = (
    *("clients", "end_to_end", "fuzz", "npm", "page", "routers", "soak"),
    "test_public_names.py",
)
"""Where a node is a process as its users start it, and serves a real model."""

REAL_CHILDREN: Final = (
    *WHOLE_NODES,
    "child/test_child.py",
    "child/test_disk_reading.py",
    "child/test_leaving.py",
    "child/test_turns_on_disk.py",
    "faults/test_bound_streams.py",
    "faults/test_drafting_streams.py",
    "faults/test_every_limit.py",
    "faults/test_every_token.py",
    "faults/test_garbage_in_a_child.py",
    "faults/test_hosts.py",
    "faults/test_kills_behind_a_prefix.py",
    "faults/test_left_streams.py",
    "faults/test_other_model.py",
    "faults/ranks",
    "faults/test_real_child.py",
    "faults/test_scored_streams.py",
    "faults/test_spliced_streams.py",
    "faults/test_suspected_records.py",
    "fidelity/disk",
    "fidelity/test_over_http.py",
    "fidelity/test_smollm2.py",
    "server/test_log.py",
)

MARKERS: Final[Mapping[str, tuple[str, ...]]] = {
    "process": (
        *REAL_CHILDREN,
        "api/parsing/test_parser.py",
        "bench",
        "child/test_silence.py",
        "cli",
        "faults/test_garbage.py",
        "faults/test_stopped_tree.py",
        "fidelity/test_documents.py",
        "front/test_client_config.py",
        "front/test_large_bodies.py",
        "models/test_command.py",
        "models/test_hub.py",
        "models/test_pull.py",
        "repository",
        "service/test_systemd.py",
        "supervisor/process/launch/test_hosts.py",
        "supervisor/blas",
        "system",
    ),
    "mlx": (
        *REAL_CHILDREN,
        "bench",
        "child",
        "engine",
        "families",
        "faults/test_garbage.py",
        "fidelity",
        "models/test_as_mlx_lm.py",
        "models/test_gguf.py",
        "test_cache.py",
        "test_inference.py",
        "test_synthetic_models.py",
    ),
    "e2e": WHOLE_NODES,
    "alone": (
        "engine/ranks/test_ranks.py",
        "faults/ranks",
        "faults/test_hosts.py",
        "fidelity/test_ranks.py",
    ),
}


@cache
def markers_of(path: Path) -> list[str]:
    """Return the markers that all tests of a file have."""
    file = path.relative_to(TESTS)
    return [
        marker
        for marker, places in MARKERS.items()
        if any(file.is_relative_to(place) for place in places)
    ]


def by_cost(path: Path) -> int:
    """Return the place of a file in the order of the run: first what is known to take longest."""
    costly = ("e2e", "process", "mlx")
    markers = markers_of(path)
    return next((place for place, marker in enumerate(costly) if marker in markers), len(costly))


class StartedProcesses:
    """The processes that this process starts, in whatever way."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def watch(self) -> None:
        """Take note of each process from now on; a process can be watched only once."""
        # Official clients name the platform, for which Python asks a program, once.
        platform.processor()
        sys.addaudithook(self._on_event)
        os.register_at_fork(before=lambda: self.commands.append("a process of the event loop"))

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            self.commands.append(str(arguments[1]))
        elif event in ("os.posix_spawn", "os.system"):
            self.commands.append(str(arguments[0]))
