"""Where the segments of a prompt end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.checks.text_bound import TextBound
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.prompt import PREDICTED, build_prompt, render, system_prefix_tokens
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.call_counter import calls

if TYPE_CHECKING:
    from pathlib import Path

SYSTEM = {"role": "system", "content": "You are an old river."}
HELLO = {"role": "user", "content": "hello there"}
ANSWER = {"role": "assistant", "content": "good day"}
MORE = {"role": "user", "content": "and more"}


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return read_model(tiny)[1]


def test_the_tokens_are_mlx_lms(tokenizer: Any) -> None:
    for chat in ([HELLO], [SYSTEM, HELLO], [SYSTEM, HELLO, ANSWER, MORE], [SYSTEM, HELLO, ANSWER]):
        theirs = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
        assert render(tokenizer, chat, {}).tokens == list(theirs)


def test_segments_end_where_the_words_that_differ_begin(tokenizer: Any) -> None:
    prompt = render(tokenizer, [SYSTEM, HELLO, ANSWER, MORE], {})
    said = [tokenizer.decode(prompt.tokens[:end]) for end in prompt.all_segment_ends]
    assert said[0].endswith("old river.<|im_end|>\n<|im_start|>user\n")
    assert said[1].endswith("good day<|im_end|>\n<|im_start|>user\n")
    assert said[2].endswith("and more<|im_end|>\n")
    assert len(said) == 3
    assert tokenizer.decode(prompt.tokens) == f"{said[2]}<|im_start|>assistant\n"


def test_every_chat_with_a_system_prompt_has_the_head_that_is_warmed(tokenizer: Any) -> None:
    head = system_prefix_tokens(tokenizer, SYSTEM["content"])
    for words in ("x", " spaced", "\n\nlines", "user", "<|im_end|>", "日本", "\ue000 odd"):
        prompt = render(tokenizer, [SYSTEM, {"role": "user", "content": words}], {})
        assert prompt.tokens[: prompt.system_prefix] == head[: prompt.system_prefix]
        assert prompt.system_prefix >= len(head) - 1


def test_a_tools_result_is_a_last_turn_of_its_own(tokenizer: Any) -> None:
    result = {"role": "tool", "content": "42", "tool_call_id": "a"}
    prompt = render(tokenizer, [SYSTEM, HELLO, ANSWER, result], {})
    before = tokenizer.decode(prompt.tokens[: prompt.all_segment_ends[1]])
    assert before.endswith("good day<|im_end|>\n<|im_start|>tool\n")


def test_a_chat_that_ends_with_the_assistants_words_has_segments_too(tokenizer: Any) -> None:
    prompt = render(tokenizer, [SYSTEM, HELLO, ANSWER], {})
    assert prompt.system_prefix == prompt.all_segment_ends[0] > 0
    assert prompt.all_segment_ends[-1] < len(prompt.tokens)


def test_what_a_template_says_before_every_chat_is_no_head(tokenizer: Any) -> None:
    prompt = render(tokenizer, [HELLO], {})
    assert (prompt.system_prefix, prompt.system) == (0, "")
    assert tokenizer.decode(prompt.tokens[: prompt.all_segment_ends[0]]).endswith(
        "there<|im_end|>\n"
    )


def test_a_head_is_rendered_once_for_all_chats_that_share_it(tokenizer: Any) -> None:
    def rendered(system: str, words: str, **told: Any) -> int:
        chat = [{"role": "system", "content": system}, {"role": "user", "content": words}]
        return calls(lambda: render(tokenizer, chat, told))["chat_text"]

    first = rendered("You count.", "one")
    assert rendered("You count.", "two") == first - 1
    assert rendered("You count on.", "two") == first
    assert rendered("You count.", "two", mood="merry") == first


def test_nothing_is_warmed_for_no_prompt(tokenizer: Any) -> None:
    assert system_prefix_tokens(tokenizer, "") == []


def test_a_template_that_refuses_says_so(tokenizer: Any) -> None:
    with pytest.raises(InvalidRequest, match="refuses these messages"):
        render(tokenizer, [{"role": "user"}, {"role": 3, "content": object()}], {})


@pytest.mark.parametrize("reads", ["enable_thinking", "thinking"])
@pytest.mark.parametrize("told", ["enable_thinking", "thinking"])
@pytest.mark.parametrize("on", [True, False])
def test_a_switch_of_reasoning_reaches_a_template_under_either_name(
    tiny: Path, reads: str, told: str, on: bool
) -> None:
    tokenizer = read_model(tiny)[1]
    tokenizer.chat_template = (
        "{{ messages[0].content }}{% if NAME is defined and NAME %} on{% endif %}".replace(
            "NAME", reads
        )
    )
    text = tokenizer.decode(render(tokenizer, [HELLO], {told: on}).tokens)
    assert text == ("hello there on" if on else "hello there")


def test_a_switch_under_both_names_is_as_it_was_told(tiny: Path) -> None:
    tokenizer = read_model(tiny)[1]
    tokenizer.chat_template = "{{ messages[0].content }} {{ enable_thinking }} {{ thinking }}"
    told = {"enable_thinking": True, "thinking": False}
    text = tokenizer.decode(render(tokenizer, [HELLO], told).tokens)
    assert text.split() == ["hello", "there", "True", "False"]


def test_a_conversation_without_turns_is_refused_in_our_words(tokenizer: Any) -> None:
    with pytest.raises(InvalidRequest, match="the conversation is empty") as refused:
        build_prompt(tokenizer, ChatRequest([], Sampling(seed=1)))
    assert refused.value.param == "messages"


def test_prediction_is_read_as_tokens_and_no_further_than_an_answer_can_go(tokenizer: Any) -> None:
    text = "the river runs " * 100
    request = ChatRequest([HELLO], Sampling(0), prediction=text)
    whole = build_prompt(tokenizer, request)
    assert tokenizer.decode(list(whole.prediction)).strip() == text.strip()
    assert whole.tokens == build_prompt(tokenizer, ChatRequest([HELLO], Sampling(0))).tokens
    bounded = build_prompt(tokenizer, request, TextBound(tokenizer, 40))
    assert tokenizer.decode(list(bounded.prediction)) == text[: 40 * PREDICTED]
