"""What tests of the engine share: threads that give way, and a tokenizer with tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generation_stream
from mlx_lm.utils import load_tokenizer

from mlx_worker.system.priority import NativeThreads
from tests.engine.kv.disk.open_tiers import end_writers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def threads_that_preempt_none() -> None:
    """Let mlx's threads give way here as in a child: else a tenth of the CPU is switches.

    mlx starts a thread with the first operation of a stream.
    """
    for stream in (mx.default_stream(mx.default_device()), generation_stream):
        with mx.stream(stream):
            mx.eval(mx.zeros(1) + 1)
    NativeThreads().preempt(allowed=False)


@pytest.fixture(autouse=True)
def disk_writers_end() -> Iterator[None]:
    """End the writers to disk with their test: each would maintain its folder until the last."""
    yield
    end_writers()


@pytest.fixture(scope="session")
def tokenizer(caller: Path) -> Any:
    """Return the tokenizer of a model that reasons and calls tools."""
    return load_tokenizer(caller)
