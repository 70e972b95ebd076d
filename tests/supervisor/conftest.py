"""These tests run on the loop that the product runs on: how a child's end is seen depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.supervisor_harness import Fifo

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def pace(tmp_path: Path) -> Iterator[Fifo]:
    with Fifo(tmp_path / "pace") as fifo:
        yield fifo


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Fifo]:
    with Fifo(tmp_path / "hold") as fifo:
        yield fifo
