"""The real child is killed in the middle of documents; what comes is what would have come."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import openai
import psutil
import pytest

from tests.processes import RunningNode, eventually, running_node

LIST: Final = {"type": "array", "items": {"enum": ["sun", "moon"]}, "minItems": 9, "maxItems": 9}
FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "list", "schema": LIST}}


@pytest.fixture(scope="module")
def restless(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("node")
    with running_node(folder, {"tiny": tiny}, supervisor="backoff_initial = 0") as node:
        node.wait_until_ready()
        yield node


def streamed(node: RunningNode, temperature: float, kill_after: int | None) -> tuple[str, str]:
    """Text and reason of one stream, whose child is killed after so many pieces."""
    asked: Any = {"temperature": temperature, "seed": 7, "response_format": FORMAT}
    child = psutil.Process(node.model("tiny")["pid"])
    text, finish, pieces = "", "", 0
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="ignored", max_retries=0) as client:
        for chunk in client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hello"}], stream=True, **asked
        ):
            pieces += 1
            if pieces == kill_after:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
    if kill_after is not None:
        eventually(lambda: node.model("tiny")["state"] == "ready")
        assert node.model("tiny")["pid"] != child.pid
    return text, finish


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_document_goes_on_in_another_process(restless: RunningNode, temperature: float) -> None:
    text, finish = streamed(restless, temperature, None)
    assert finish == "stop"
    assert len(json.loads(text)) == 9
    before = len(restless.log)
    assert streamed(restless, temperature, kill_after=8) == (text, "stop")
    eventually(lambda: any("goes on after" in line for line in restless.log[before:]))
