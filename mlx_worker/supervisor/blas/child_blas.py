"""Which BLAS children preload, and the variables that make them do so.

[front]
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mlx_worker.system.loaded_blas import OWN, PRELOADED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PRELOAD: Final = "LD_PRELOAD"


class NoFastBlas(Exception):
    """Why children compute with mlx's own BLAS, in words for a log line."""


class NoCpuBuild(NoFastBlas):
    """The same where nothing is missing: mlx's own products are fast here."""


@dataclass(frozen=True, slots=True)
class FileState:
    """A file as it was when a test product used the file."""

    path: Path
    identity: tuple[int, int, int, int]

    @classmethod
    def of(cls, path: Path) -> FileState:
        """Return the state of a file. Raises OSError."""
        found = path.stat()
        return cls(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))

    @property
    def is_unchanged(self) -> bool:
        """True if the file is still there and has not been replaced."""
        try:
            return FileState.of(self.path) == self
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class ChildBlas:
    """The BLAS of children.

    `library` is preloaded; None: mlx's own computes. `threads` are variables that set the number of
    threads. `files` are those that the test product used.
    """

    library: Path | None = None
    name: str = OWN
    threads: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: tuple[FileState, ...] = ()

    @property
    def is_fast(self) -> bool:
        """True if children preload a library that a test product has proved right."""
        return self.library is not None

    def is_unchanged(self) -> bool:
        """Return True if the library is the library that was tried."""
        return all(file.is_unchanged for file in self.files)

    def with_preload(
        self, inherited: Mapping[str, str], of_model: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, str]:
        """Return the environment of a child; variables of its model count most.

        The library stands behind those that are preloaded already.
        """
        if self.library is None:
            return {**inherited, **of_model}
        environ = {**inherited, **self.threads, **of_model}
        ours = str(self.library)
        preload = ":".join(filter(None, (environ.get(PRELOAD), ours)))
        return {**environ, PRELOAD: preload, PRELOADED: ours}


OWN_BLAS: Final = ChildBlas()
"""What children compute with where nothing else was asked for."""


def thread_variables(
    names: tuple[str, ...], configured: int | None, default: int
) -> dict[str, str]:
    """Return the variables of the number of threads that a child's environment needs.

    A configured number counts; else a number in the node's own environment; else the default.
    """
    if configured is None and any(os.environ.get(name) for name in names):
        return {}
    return dict.fromkeys(names, str(configured or default))
