"""No garbage is collected while modules are imported, nor looked for in them afterwards."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

import pytest

from mlx_worker.system.garbage import garbage_kept, imports_kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Cell:
    """An object that can be garbage."""

    def __init__(self) -> None:
        self.itself = self


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """The phases of collections meanwhile."""
    phases: list[str] = []

    def note(phase: str, _info: dict[str, int]) -> None:
        phases.append(phase)

    gc.callbacks.append(note)
    try:
        yield phases
    finally:
        gc.callbacks.remove(note)


@pytest.mark.parametrize("kept", [garbage_kept, imports_kept])
def test_nothing_is_collected_meanwhile(
    kept: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    with kept(), counted() as meanwhile:  # counted inside: to enter may be the last collection
        cells = [Cell() for _ in range(10 * gc.get_threshold()[0])]
    assert meanwhile == []
    assert gc.isenabled()
    with counted() as afterwards:
        cells += [Cell() for _ in range(10 * gc.get_threshold()[0])]
    assert afterwards


@pytest.mark.parametrize("kept", [garbage_kept, imports_kept])
def test_where_nothing_was_collected_before_nothing_is_afterwards(
    kept: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    gc.disable()
    try:
        with kept():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_imported_is_never_looked_through() -> None:
    with imports_kept():
        module = Cell()
    assert all(seen is not module for seen in gc.get_objects())
    with garbage_kept():
        other = Cell()
    assert any(seen is other for seen in gc.get_objects())


@pytest.mark.parametrize("kept", [garbage_kept, imports_kept])
def test_an_error_leaves_the_collector_as_it_was(
    kept: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    with pytest.raises(ImportError), kept():
        raise ImportError
    assert gc.isenabled()
