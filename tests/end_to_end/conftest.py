"""Whole nodes with real models, and the official clients of whatever `node` a file has."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import anthropic
import openai
import pytest
from mlx_lm.utils import load_tokenizer

from tests.processes import RunningNode, running_node
from tests.synthetic_models import THINK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class StartNode(Protocol):
    """Start a node, in a folder of its own unless one is given; return it once it serves."""

    def __call__(
        self, models: Mapping[str, Path], *, folder: Path | None = None, **settings: Any
    ) -> RunningNode: ...


@pytest.fixture(scope="module")
def start_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartNode]:
    with ExitStack() as stack:

        def start(
            models: Mapping[str, Path], *, folder: Path | None = None, **settings: Any
        ) -> RunningNode:
            place = folder or tmp_path_factory.mktemp("node")
            node = stack.enter_context(running_node(place, models, **settings))
            node.wait_until_ready()
            return node

        yield start


@pytest.fixture(scope="session")
def caller_node(caller: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node whose model reasons and calls tools; tests share it and leave it as it was."""
    with running_node(tmp_path_factory.mktemp("node"), {"caller": caller}) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def client(node: RunningNode) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the node that the file has."""
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="ignored", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(node: RunningNode) -> Iterator[anthropic.Anthropic]:
    """Anthropic's client of the node that the file has."""
    with anthropic.Anthropic(base_url=node.url, api_key="ignored", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def tokenizer(caller: Path) -> Any:
    return load_tokenizer(caller)


@pytest.fixture(scope="session")
def unthinking(tokenizer: Any) -> dict[str, Any]:
    """Fields for an answer without a thought: the template opens none, the model begins none."""
    (think,) = tokenizer.encode(THINK)
    return {
        "chat_template_kwargs": {"enable_thinking": False},
        "logit_bias": {str(think): -100},
        "temperature": 1,
        "seed": 3,
    }
