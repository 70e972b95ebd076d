"""The registry of error codes: which class a code on the pipe stands for.

Processes of one node name their errors by their codes. [both]
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from mlx_worker.errors.base import WorkerError
from mlx_worker.errors.node import Unavailable
from mlx_worker.errors.python_modules import CacheError, InferenceError
from mlx_worker.errors.request import (
    ConstraintFailed,
    ConstraintTooCostly,
    ContextLengthExceeded,
    InvalidRequest,
    KvTooLarge,
    UnsupportedField,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def error_class(code: str) -> type[WorkerError]:
    """Return the error class of this package with this code; WorkerError for an unknown code.

    The classes themselves are the registry, so that a new class is known to the front as soon as
    another process can raise it.
    """
    return _classes().get(code, WorkerError)


_OWN_MODULES: Final = f"{__package__}."


@cache
def _classes() -> dict[str, type[WorkerError]]:
    classes: dict[str, type[WorkerError]] = {}
    for kind in _family(WorkerError):
        if kind.__module__.startswith(_OWN_MODULES):
            # Of two classes with one code, requests meet the first.
            classes.setdefault(kind.code, kind)
    return classes


def _family(kind: type[WorkerError]) -> Iterator[type[WorkerError]]:
    """Yield a class and all classes below it, in the order of their definition."""
    yield kind
    for below in kind.__subclasses__():
        yield from _family(below)


CHILD_CODES: Final = frozenset(
    kind.code
    for kind in (
        WorkerError,
        InvalidRequest,
        UnsupportedField,
        ContextLengthExceeded,
        ConstraintFailed,
        ConstraintTooCostly,
        KvTooLarge,
        Unavailable,
        InferenceError,
        CacheError,
    )
)
"""Codes that a child may send about a request. The others are for the front to decide: a child
cannot report its own loss."""
