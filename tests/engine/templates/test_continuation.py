"""Answers that continue the assistant's last message, or begin no turn, against transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.utils import load_tokenizer

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.output.markers import Markers
from mlx_worker.engine.output.text_stream import TextStream
from mlx_worker.engine.prompt import build_prompt
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.output import Done, StepOutput
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.engine.text_harness import text_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

U: dict[str, Any] = {"role": "user", "content": "hello there"}
S: dict[str, Any] = {"role": "system", "content": "You are an old river."}
A: dict[str, Any] = {"role": "assistant", "content": "good day"}

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMED = CHATML.replace("m.content", "m.content | trim")
# As Qwen3's: the last turn has a place for thoughts, which the prompt opens.
THINKING = CHATML.replace(
    "{{ m.content }}",
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
).replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
HIDING = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")


def request(*messages: dict[str, Any], opening: Any = "continued", **more: Any) -> ChatRequest:
    return ChatRequest([*messages], Sampling(seed=1), opening=opening, **more)


@pytest.fixture
def templated(nano: Path) -> Callable[[str], Any]:
    def with_template(template: str) -> Any:
        tokenizer = load_tokenizer(nano)
        tokenizer.chat_template = template
        return tokenizer

    return with_template


@pytest.mark.parametrize("template", [CHATML, TRIMMED, THINKING])
@pytest.mark.parametrize(
    "begun", ["The old", "The old ", "", "{", '{"a": ', " \n", "line\n\nline\n", "old\n", "日本"]
)
@pytest.mark.parametrize("before", [[U], [S, U], [U, A, U], [A, U]])
def test_continued_prompt_is_that_of_transformers(
    templated: Callable[[str], Any], template: str, begun: str, before: list[dict[str, Any]]
) -> None:
    tokenizer = templated(template)
    messages = [*before, {"role": "assistant", "content": begun}]
    theirs = tokenizer.apply_chat_template(messages, continue_final_message=True)
    prompt = build_prompt(tokenizer, request(*messages))
    assert prompt.tokens == list(theirs)
    assert all(end < len(prompt.tokens) for end in prompt.all_segment_ends)


@pytest.mark.parametrize("template", [CHATML, TRIMMED, THINKING])
@pytest.mark.parametrize("messages", [[U], [S, U], [U, A], [U, A, U]])
def test_prompt_without_a_turn_is_that_of_transformers(
    templated: Callable[[str], Any], template: str, messages: list[dict[str, Any]]
) -> None:
    tokenizer = templated(template)
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=False)
    assert build_prompt(tokenizer, request(*messages, opening="none")).tokens == list(theirs)


def test_message_that_the_template_does_not_show_cannot_be_continued(
    templated: Callable[[str], Any],
) -> None:
    """The refusal quotes nothing of the conversation, as that of transformers does."""
    begun = {"role": "assistant", "content": "a secret</think>So"}
    with pytest.raises(InvalidRequest, match="cannot be continued") as caught:
        build_prompt(templated(HIDING), request(U, begun))
    assert "secret" not in caught.value.message


def test_program_of_mlx_lms_that_leaves_no_message_open_is_found_out(
    templated: Callable[[str], Any],
) -> None:
    tokenizer = templated(CHATML)
    begun = {"role": "assistant", "content": "So"}

    def program(messages: Any, *, tail: str = "", **_told: Any) -> str:
        return "".join(turn["content"] for turn in messages) + tail

    tokenizer._chat_template = program
    assert tokenizer.decode(build_prompt(tokenizer, request(U, begun)).tokens).endswith("So")
    with pytest.raises(InvalidRequest, match="cannot be continued"):
        build_prompt(tokenizer, request(U, begun, template_kwargs={"tail": "<|im_end|>"}))


def test_thoughts_that_were_begun_are_gone_on_with(tokenizer: Any) -> None:
    begun = {"role": "assistant", "content": "<think>\nhm"}
    assert build_prompt(tokenizer, request(U, begun)).state == "reasoning"
    over = {"role": "assistant", "content": "<think>\nhm\n</think>\nSo"}
    assert build_prompt(tokenizer, request(U, over)).state == "normal"


@pytest.mark.parametrize(
    ("opening", "text"), [("turn", "old bank"), ("continued", " old bank"), ("none", " old bank")]
)
def test_first_space_of_a_continuation_is_text(tokenizer: Any, opening: Any, text: str) -> None:
    asked = request(U, A, opening=opening, template_kwargs={"enable_thinking": False})
    prompt = build_prompt(tokenizer, asked)
    stream = TextStream(Markers(tokenizer), asked, prompt.state, prompt.tokens)
    tokens = tokenizer.encode(" old bank", add_special_tokens=False)
    said = "".join(text_of(stream.add(token)) for token in tokens)
    said += text_of(stream.finish("length"))
    assert said == text


def answered(engine: Engine, asked: ChatRequest, replay: list[int]) -> tuple[list[int], str]:
    """Return the tokens that followed `replay`, and their text."""
    prompt = build_prompt(engine._tokenizer, asked)
    engine.admit(1, asked, prompt, replay=replay)
    tokens: list[int] = []
    text = ""
    while engine.active:
        for message in engine.step():
            rows = message.rows if isinstance(message, StepOutput) else []
            tokens += [token for row in rows for token in row.tokens]
            text += "".join(row.text for row in rows)
            text += message.text if isinstance(message, Done) else ""
    return tokens, text


def test_continuation_says_what_the_answer_would_have_said(tiny: Path) -> None:
    """Also in another process, after any token that its client already has."""
    model, tokenizer, _ = read_model(tiny)
    engine = Engine(model, tokenizer, context_length=1024, max_concurrency=4)
    whole, text = answered(engine, request(U, opening="turn", max_tokens=24), [])
    begun = {"role": "assistant", "content": tokenizer.decode(whole[:8])}
    asked = request(U, begun, max_tokens=16)
    rest, continued = answered(engine, asked, [])
    assert rest == whole[8:]
    assert (begun["content"] + continued).removeprefix(" ") == text
    for done in (1, 7, 15):
        assert answered(engine, asked, rest[:done])[0] == rest[done:]
