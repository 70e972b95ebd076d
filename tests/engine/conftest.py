"""What tests of the engine's text share: the tokenizer of a model that reasons and calls tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.utils import load_tokenizer

from tests.synthetic_models import make_caller

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_caller(tmp_path_factory.mktemp("models") / "caller")


@pytest.fixture(scope="session")
def tokenizer(caller: Path) -> Any:
    return load_tokenizer(caller)
