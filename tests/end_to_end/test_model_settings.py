"""What a model's section says of its requests, seen by clients of every dialect."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.dialects import (
    ALL,
    CHAT,
    CHATS,
    COMPLETIONS,
    RESPONSES,
    Dialect,
    ReceivedAnswer,
)
from tests.forced_output import force_output
from tests.sse import events_of
from tests.synthetic_models import CALLER_TEMPLATE, IM_END, THOUGHT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import StartNode
    from tests.processes import RunningNode

SYSTEM = "You are a river, and you answer as one that has been here for long."
SET = f"""
chat_template = "$TEMPLATES/own.jinja"
chat_template_kwargs = {{ enable_thinking = true }}
system_prompt = "{SYSTEM}"
stop = ["?"]
[models.defaults]
seed = 11
temperature = 1.0
max_tokens = 12
"""


@pytest.fixture(scope="module")
def node(
    start_node: StartNode, caller: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("node")
    template = CALLER_TEMPLATE.replace(
        "<|im_start|>' + message.role", "<|im_start|>The ' + message.role"
    )
    assert template != CALLER_TEMPLATE
    (folder / "own.jinja").write_text(template, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPLATES", str(folder))
        yield start_node(
            {"plain": caller, "set": caller},
            folder=folder,
            extra={"plain": "preload = false", "set": SET},
            server='reasoning_summaries = "always"',
        )


def saying(tokenizer: Any, *tokens: str) -> dict[str, Any]:
    """Have it say these, whatever its defaults are."""
    return force_output(tokenizer, *tokens) | {"temperature": 0}


def ask(node: RunningNode, dialect: Dialect, text: str = "Hello", **fields: Any) -> ReceivedAnswer:
    answer = node.ask(dialect.path, dialect.body(text, model="set") | fields)
    assert answer.status == 200, answer.body
    return dialect.read_full(answer.json)


def read(received: ReceivedAnswer) -> int:
    assert received.usage is not None
    return received.usage.prompt


def with_system(dialect: Dialect, text: str) -> dict[str, Any]:
    return dialect.body("Hello", system=text)


@pytest.mark.parametrize("dialect", CHATS, ids=repr)
def test_a_request_without_a_system_prompt_gets_the_models(
    node: RunningNode, dialect: Dialect
) -> None:
    given = ask(node, dialect, **with_system(dialect, SYSTEM))
    without = ask(node, dialect)
    assert (without.text, without.reasoning, read(without)) == (
        given.text,
        given.reasoning,
        read(given),
    )
    cache = node.ask("/cache?model=set").json
    assert cache["systemPromptHash"] == hashlib.sha256(SYSTEM.encode()).hexdigest()
    assert read(ask(node, dialect, **with_system(dialect, "Hm."))) < read(without)


@pytest.mark.parametrize("dialect", ALL, ids=repr)
def test_the_models_stop_strings_are_added_to_the_requests(
    node: RunningNode, dialect: Dialect, tokenizer: Any
) -> None:
    quiet = {"chat_template_kwargs": {"enable_thinking": False}} if dialect.chats else {}
    said = saying(tokenizer, "!", "?", ";") | quiet
    assert ask(node, dialect, **said).text == "!"
    if dialect is not RESPONSES:  # which has no field for them
        field = "stop" if dialect in (CHAT, COMPLETIONS) else "stop_sequences"
        assert ask(node, dialect, **(said | {field: ["!"]})).text == ""


@pytest.mark.parametrize("dialect", CHATS, ids=repr)
def test_the_template_gets_the_models_arguments_where_the_request_has_none(
    node: RunningNode, dialect: Dialect, tokenizer: Any
) -> None:
    said = saying(tokenizer, "!", THOUGHT, IM_END)
    assert ask(node, dialect, **said).reasoning == "!", "the template opened a thought"
    quiet = saying(tokenizer, "!", IM_END) | {"chat_template_kwargs": {"enable_thinking": False}}
    received = ask(node, dialect, **quiet)
    assert (received.text, received.reasoning) == ("!", "")


def test_the_template_of_the_configuration_goes_before_the_folders(
    node: RunningNode, tokenizer: Any
) -> None:
    own = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello"}]
    plain = tokenizer.apply_chat_template(own, add_generation_prompt=True, enable_thinking=True)
    assert read(ask(node, CHAT)) > len(plain), "each turn has a word more"


@pytest.mark.parametrize("dialect", ALL, ids=repr)
def test_the_models_seed_makes_answers_alike(node: RunningNode, dialect: Dialect) -> None:
    first, second = (ask(node, dialect) for _ in range(2))
    other = ask(node, dialect, seed=12)
    assert (first.text, first.reasoning) == (second.text, second.reasoning)
    assert (first.text, first.reasoning) != (other.text, other.reasoning)
    assert ask(node, dialect, seed=11).text == first.text


def test_what_was_warmed_is_what_requests_read(node: RunningNode) -> None:
    """A head is warmed with the model's own template arguments."""
    system = "You are the moon. " * 12
    warmed = node.ask("/cache/warm", {"model": "set", "systemPrompt": system})
    assert warmed.json["tokens"] > 30
    body = CHAT.body("Hello", model="set", system=system)
    assert node.ask(CHAT.path, body).headers["X-Cache-Hit"] == "true"


@pytest.mark.full
def test_answers_of_other_prompts_have_another_fingerprint(node: RunningNode) -> None:
    prints = {
        node.ask(CHAT.path, CHAT.body("Hello", model=name, max_tokens=1)).json["system_fingerprint"]
        for name in ("plain", "set")
    }
    assert len(prints) == 2


def test_reasoning_is_told_as_a_summary_too_where_nobody_asked(
    node: RunningNode, tokenizer: Any
) -> None:
    said = saying(tokenizer, "!", THOUGHT, ";", IM_END)
    body = RESPONSES.body("Hello", model="set", stream=True) | said
    events = [data for _, data in events_of(node.ask(RESPONSES.path, body).body)]
    for kind in ("reasoning_summary_text", "reasoning_text"):
        deltas = [event["delta"] for event in events if event["type"] == f"response.{kind}.delta"]
        assert "".join(deltas) == "!"
