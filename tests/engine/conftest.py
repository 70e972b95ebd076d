"""What tests of the engine's text share: the tokenizer of a model that reasons and calls tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.utils import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def tokenizer(caller: Path) -> Any:
    return load_tokenizer(caller)
