"""The real child is killed in the middle of documents; what comes is what would have come."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import openai
import psutil
import pytest
from mlx_lm.utils import load_tokenizer

from tests.faults.failing_harness import running_failing_node, set_fault
from tests.faults.failing_model import HOLD, Fault
from tests.processes import RunningNode, eventually

LIST: Final = {"type": "array", "items": {"enum": ["sun", "moon"]}, "minItems": 60, "maxItems": 60}
FORMAT: Final = {"type": "json_schema", "json_schema": {"name": "list", "schema": LIST}}


HELD: Final = Fault(kind=HOLD, at=10)
"""A step that the child does not get beyond until it is killed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("restless")


@pytest.fixture(scope="module")
def restless(tiny: Path, folder: Path) -> Iterator[RunningNode]:
    with running_failing_node("tiny", tiny, folder) as node:
        yield node


@pytest.fixture(scope="module")
def asked(tiny: Path) -> dict[str, Any]:
    """Without blanks, of which a greedy model that means nothing takes all it may have."""
    tokenizer = load_tokenizer(tiny)
    blanks = {str(token): -100 for name in "\n\t " for token in tokenizer.encode(name)}
    return {"seed": 7, "response_format": FORMAT, "logit_bias": blanks}


def streamed(node: RunningNode, asked: dict[str, Any], *, kill: bool) -> tuple[str, str]:
    """Text and reason of one stream, whose child is killed at its first words."""
    child = psutil.Process(node.model("tiny")["pid"])
    text, finish = "", ""
    with openai.OpenAI(base_url=f"{node.url}/v1", api_key="ignored", max_retries=0) as client:
        for chunk in client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hello"}], stream=True, **asked
        ):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
            if kill and text:
                with contextlib.suppress(psutil.NoSuchProcess):  # it has been killed
                    child.kill()
    if kill:
        eventually(lambda: node.model("tiny")["state"] == "ready")
        assert node.model("tiny")["pid"] != child.pid
    return text, finish


@pytest.mark.full
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_document_goes_on_in_another_process(
    restless: RunningNode, folder: Path, asked: dict[str, Any], temperature: float
) -> None:
    asked = asked | {"temperature": temperature}
    text, finish = streamed(restless, asked, kill=False)
    assert finish == "stop"
    assert len(json.loads(text)) == 60
    before = len(restless.log)
    set_fault(folder, HELD)
    assert streamed(restless, asked, kill=True) == (text, "stop")
    eventually(lambda: any("after_tokens" in line for line in restless.log[before:]))
