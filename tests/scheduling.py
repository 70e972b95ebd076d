"""Which tests run in the same process of pytest-xdist: those of a file, and those that share nodes.

A node of the whole session is started once in each process that has a test of it, and a node with
a real model takes seconds of CPU to start.
"""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadFileScheduling

SHARED_NODES: Final = (
    "tests/end_to_end/",
    "tests/cli/test_output.py",
    "tests/faults/test_every_token.py",
)
"""Where tests ask the nodes of the session, `node` and `caller_node`."""


class SharedNodeScheduling(LoadFileScheduling):  # type: ignore[misc]  # has no types
    """`--dist loadfile`, and one process for all tests that ask the session's nodes."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the name of the group of tests that a test belongs to."""
        file: str = super()._split_scope(nodeid)
        return "shared nodes" if file.startswith(SHARED_NODES) else file
