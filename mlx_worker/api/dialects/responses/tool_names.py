"""The names of tools: as the client wrote them, and as a model knows them.

A tool of a namespace is offered under the joined name `NAMESPACE__NAME`.

[front]
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHORTEST_DIGEST: Final = 8
"""Characters of the digest that makes a name distinct."""


class ToolName(msgspec.Struct, frozen=True, array_like=True):
    """The name of a tool as its client wrote it."""

    namespace: str | None
    name: str
    is_custom: bool

    @property
    def joined(self) -> str:
        """The name under which a model calls the tool, if no other tool has the same."""
        return self.name if self.namespace is None else f"{self.namespace}__{self.name}"

    @property
    def bare(self) -> ToolName:
        """The same name outside a namespace."""
        return ToolName(None, self.name, self.is_custom)

    @property
    def is_plain(self) -> bool:
        """True for a function outside a namespace, whose name is never changed."""
        return self.namespace is None and not self.is_custom


def assign_offered_names(names: Iterable[ToolName]) -> dict[ToolName, str]:
    """Return the name under which each tool is offered, no two of them the same.

    If different tools have one joined name, all but a plain function get a digest appended: so a
    tool's name does not depend on the order of the tools, and a prompt's prefix stays the same.
    """
    distinct = dict.fromkeys(names)
    counts = Counter(name.joined for name in distinct)
    return {
        name: name.joined
        if name.is_plain or counts[name.joined] == 1
        else _name_with_digest(name, counts)
        for name in distinct
    }


def _name_with_digest(name: ToolName, taken: Counter[str]) -> str:
    digest = hashlib.sha256(msgspec.json.encode(name)).hexdigest()
    candidates = (
        f"{name.joined}_{digest[:size]}" for size in range(_SHORTEST_DIGEST, len(digest) + 1)
    )
    return next(candidate for candidate in candidates if candidate not in taken)
