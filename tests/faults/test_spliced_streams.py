"""A prompt with the tokens of an earlier turn is the same in the process after a kill."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import openai
import psutil
import pytest
from mlx_lm.utils import load_tokenizer

from tests.faults.failing_harness import running_failing_node, set_fault
from tests.faults.failing_model import HOLD, Fault
from tests.forced_output import force_output
from tests.processes import RunningNode, eventually
from tests.synthetic_models import CALL, CALL_PARTS, CALLED, IM_END

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELD: Final = Fault(kind=HOLD, at=10)
"""A step that the child does not get beyond until it is killed."""
PLAIN: Final = {"chat_template_kwargs": {"enable_thinking": False}}
LOOK: Final[Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
USER: Final[Any] = {"role": "user", "content": "What of the river?"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spliced")


@pytest.fixture(scope="module")
def restless(caller: Path, folder: Path) -> Iterator[RunningNode]:
    with running_failing_node("caller", caller, folder) as node:
        yield node


def called(client: openai.OpenAI, caller: Path) -> list[Any]:
    """Return a chat in which the model calls a tool, without the line breaks of its template."""
    forced = force_output(load_tokenizer(caller), CALL, *CALL_PARTS[:2], CALLED, IM_END)
    answer = client.chat.completions.create(
        model="caller", messages=[USER], tools=[LOOK], extra_body=PLAIN, temperature=0, **forced
    )
    message = answer.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "the river is old"}
    return [USER, message.model_dump(exclude_none=True), result]


def streamed(
    client: openai.OpenAI, chat: list[Any], child: psutil.Process | None = None
) -> tuple[str, int]:
    """Return a stream's text and its prompt's tokens; its first words kill the child, if given."""
    text, prompt = "", 0
    for chunk in client.chat.completions.create(
        model="caller",
        messages=chat,
        tools=[LOOK],
        temperature=0.8,
        seed=5,
        max_tokens=40,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=PLAIN,
    ):
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        prompt = chunk.usage.prompt_tokens if chunk.usage else prompt
        if child is not None and text:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has been killed
                child.kill()
    return text, prompt


@pytest.mark.full
def test_spliced_prompt_is_the_same_in_the_process_after_a_kill(
    restless: RunningNode, folder: Path, caller: Path
) -> None:
    with openai.OpenAI(base_url=f"{restless.url}/v1", api_key="ignored", max_retries=0) as client:
        chat = called(client, caller)
        expected = streamed(client, chat)
        child = restless.child("caller")
        set_fault(folder, HELD)
        assert streamed(client, chat, child) == expected
        eventually(lambda: restless.model("caller")["state"] == "ready")
        assert restless.child("caller").pid != child.pid
        assert streamed(client, chat) == expected, "the next process remembers what it was told"
        assert restless.ask("/cache", method="DELETE").status == 200
        text, prompt = streamed(client, chat)
        assert (text, prompt) != expected, "read as its text, the prompt has another answer"
        assert prompt != expected[1]
