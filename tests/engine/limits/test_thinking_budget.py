"""Budgets of reasoning: where the end is forced, and that nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from mlx_worker.bench.synthetic.folder import make_folder
from mlx_worker.bench.synthetic.llama import LLAMA, NANO
from mlx_worker.engine.limits.thinking_budget import ThinkingBudget
from mlx_worker.engine.limits.thinking_end import ThinkingEnd, thinking_end
from mlx_worker.engine.output.markers import REASONING, Markers
from mlx_worker.engine.prompt import Prompt, build_prompt
from mlx_worker.wire.request import ChatRequest, EndConditions, Sampling
from tests.engine.text_harness import ALPHABET, collect_spans, stream
from tests.rounds import rounds, variants
from tests.structured_harness import HELLO, EngineHarness, asked, schema
from tests.synthetic_models import THINK, THOUGHT, make_nano

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOKENS: Final = 24
SAMPLERS: Final[list[dict[str, Any]]] = [{}, {"temperature": 0.9, "seed": 7}]


@pytest.fixture(scope="module")
def harness(caller: Path) -> EngineHarness:
    return EngineHarness(caller)


def limited(budget: int | None, **fields: Any) -> ChatRequest:
    """Return a request of TOKENS tokens, of which `budget` may be reasoning."""
    defaults: dict[str, Any] = {"max_tokens": TOKENS, "ends": EndConditions(ignore_eos=True)}
    return asked(thinking_budget=budget, **(defaults | fields))


def end_of(harness: EngineHarness) -> list[int]:
    end = thinking_end(harness.tokenizer, Markers(harness.tokenizer))
    assert end is not None
    return list(end.tokens)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("budget", variants(range(9), [0, 1, 5]))
def test_budget_of_n_tokens_forces_the_end_behind_them(
    harness: EngineHarness, sampler: dict[str, Any], budget: int
) -> None:
    (free,) = harness.play(limited(None, **sampler))
    (answer,) = harness.play(limited(budget, **sampler))
    end = end_of(harness)
    assert answer.tokens[:budget] == free.tokens[:budget]
    assert answer.tokens[budget : budget + len(end)] == end
    assert answer.reasoning == harness.tokenizer.decode(free.tokens[:budget]).removeprefix(" ")
    assert len(answer.tokens) == TOKENS
    assert answer.text


@pytest.mark.parametrize("sampler", variants(SAMPLERS, SAMPLERS[1:]))
def test_budget_replayed_after_any_token_goes_on_the_same(
    harness: EngineHarness, sampler: dict[str, Any]
) -> None:
    request = limited(5, **sampler)
    (answer,) = harness.play(request)
    for done in range(1, TOKENS, rounds(5, 1, 1)):
        (rest,) = harness.play(request, replay=answer.tokens[:done])
        assert rest.tokens == answer.tokens[done:], done


@pytest.mark.parametrize("sampler", variants(SAMPLERS, SAMPLERS[1:]))
def test_budgets_in_a_batch_are_those_alone(
    harness: EngineHarness, sampler: dict[str, Any]
) -> None:
    requests = [limited(budget, **sampler) for budget in (0, 1, 2, 3, 7, 30, None, 5)]
    together = harness.play(*requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = harness.play(request)
        assert answer == alone


def test_budget_behind_a_cached_prompt_is_that_behind_a_fresh_one(harness: EngineHarness) -> None:
    engine = harness.engine()
    for request in (limited(4), limited(4, **SAMPLERS[1])):
        (fresh,) = harness.play(request)
        for _ in range(2):
            (cached,) = harness.play(request, engine=engine)
            assert cached == fresh


def test_budget_that_max_tokens_cuts_has_no_effect(harness: EngineHarness) -> None:
    (free,) = harness.play(limited(None, max_tokens=6))
    (answer,) = harness.play(limited(6, max_tokens=6))
    assert answer == free
    assert (answer.finish, answer.text) == ("length", "")


def test_thinking_that_ends_by_itself_forces_nothing(harness: EngineHarness) -> None:
    thought = harness.tokenizer.convert_tokens_to_ids(THOUGHT)
    request = limited(4, bias={thought: 60.0}, frequency_penalty=2.0)
    (answer,) = harness.play(request)
    (free,) = harness.play(changed(request, thinking_budget=None))
    assert answer == free
    assert answer.tokens[0] == thought


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_document_behind_a_budget_is_whole(harness: EngineHarness, sampler: dict[str, Any]) -> None:
    shape = schema({"type": "array", "items": {"enum": ["sun"]}, "minItems": 2, "maxItems": 2})
    blanks = {token: -100.0 for name in "\n\t " for token in harness.tokenizer.encode(name)}
    request = asked(shape, thinking_budget=6, bias=blanks, **sampler)
    (answer,) = harness.play(request)
    assert json.loads(answer.text) == ["sun", "sun"]
    assert answer.finish == "stop"
    assert answer.tokens[6 : 6 + len(end_of(harness))] == end_of(harness)
    for done in (5, 6, 7, 8):
        (rest,) = harness.play(request, replay=answer.tokens[:done])
        assert rest.tokens == answer.tokens[done:]


def test_logprobs_of_forced_tokens_are_the_models_own(harness: EngineHarness) -> None:
    (answer,) = harness.play(limited(3, logprobs=0))
    assert len(answer.logprobs) == TOKENS
    assert answer.logprobs[3].chosen.text == THOUGHT
    assert answer.logprobs[3].chosen.logprob < 0
    assert [item.is_content for item in answer.logprobs[:5]] == [False] * 4 + [True]


def test_stop_token_that_ends_thinking_waits_for_min_tokens(harness: EngineHarness) -> None:
    thought = harness.tokenizer.convert_tokens_to_ids(THOUGHT)
    ends = EndConditions(ignore_eos=True, min_tokens=9, stop_token_ids=[thought])
    (answer,) = harness.play(limited(4, ends=ends))
    assert (len(answer.tokens), answer.tokens[-1], answer.finish) == (10, thought, "stop")
    (stopped,) = harness.play(limited(4, stop=[THOUGHT]))
    assert (stopped.tokens[-1], len(stopped.tokens), stopped.finish) == (thought, 5, "stop")


def test_continued_reasoning_counts_the_answers_own_tokens(harness: EngineHarness) -> None:
    turns = [*HELLO, {"role": "assistant", "content": f"{THINK}\nLet me"}]
    request = changed(limited(3), messages=turns, opening="continued")
    assert build_prompt(harness.tokenizer, request).state == REASONING
    (answer,) = harness.play(request)
    assert answer.tokens[3 : 3 + len(end_of(harness))] == end_of(harness)
    assert len(harness.tokenizer.encode(answer.reasoning)) <= 3


def test_model_without_markers_warns(tmp_path: Path) -> None:
    harness = EngineHarness(make_nano(tmp_path / "nano"))
    (free,) = harness.play(limited(None))
    (answer,) = harness.play(limited(0))
    assert answer.tokens == free.tokens
    assert [notice.split(":")[0] for notice in answer.notices] == ["max_reasoning_tokens"]


# --- characters, markers of several tokens, layout ----------------------------------------


def forced(tokenizer: Any, written: Sequence[int], limit: int, state: str = REASONING) -> list[int]:
    """Return an answer of these tokens, with what a budget forces before it takes the next."""
    markers = Markers(tokenizer)
    end = thinking_end(tokenizer, markers)
    assert end is not None
    prompt = Prompt([0], 0, "", state=state)
    budget = ThinkingBudget(
        ChatRequest([], Sampling(1), thinking_budget=limit), prompt, markers, end
    )
    answer: list[int] = []
    waiting = list(written)
    while True:
        if (token := budget.take_forced()) is None:
            if not waiting:
                return answer
            token = waiting.pop(0)
            budget.add(token)
        answer.append(token)


def letters(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.convert_tokens_to_ids([ALPHABET[byte] for byte in text.encode()])
    return ids


def test_end_is_forced_behind_a_whole_character(tokenizer: Any) -> None:
    end = list(thinking_end(tokenizer, Markers(tokenizer)).tokens)  # type: ignore[union-attr]
    moon = letters(tokenizer, "🌙")
    for budget in range(1, 5):
        assert forced(tokenizer, [*moon, 50, 51], budget) == [*moon, *end, 50, 51]
    broken = moon[:1] * 9  # never a character: the end comes all the same
    assert forced(tokenizer, broken, 2) == [*broken[:5], *end, *broken[5:]]


XTML = ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer whose end of reasoning is several tokens."""
    spec = replace(NANO, added=XTML)
    return EngineHarness(make_folder(spec, LLAMA, tmp_path_factory.mktemp("framed"))).tokenizer


def test_marker_of_several_tokens_is_completed_and_not_repeated(framed: Any) -> None:
    end = list(thinking_end(framed, Markers(framed)).tokens)  # type: ignore[union-attr]
    assert framed.decode(end) == "<|close|>think<|sep|>"
    assert len(end) > 2
    for begun in range(len(end)):
        written = [*letters(framed, "abc"), *end[:begun], *letters(framed, "xyz")]
        budget = 3 + begun
        expected = [*letters(framed, "abc"), *end, *letters(framed, "xyz")]
        assert forced(framed, written, budget) == expected, begun


def test_layout_in_front_of_the_marker_is_forced_once(tokenizer: Any) -> None:
    thought = tokenizer.convert_tokens_to_ids(THOUGHT)
    (line,) = letters(tokenizer, "\n")
    end = ThinkingEnd((line, thought), 1, b"\n")
    assert end.missing_after([50], b"word") == (line, thought)
    assert end.missing_after([line], b".\n") == (thought,)


SHOWING: Final = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.reasoning_content %}"
    "{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}"
    "{{- message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)


def test_end_of_thinking_is_as_the_template_writes_it(tmp_path: Path) -> None:
    spec = replace(NANO, template=SHOWING, added=(THINK, THOUGHT))
    harness = EngineHarness(make_folder(spec, LLAMA, tmp_path))
    assert harness.tokenizer.decode(end_of(harness)) == f"\n{THOUGHT}"
    # The prompt ends with the layout: it is not written twice.
    (answer,) = harness.play(limited(0))
    assert answer.tokens[0] == harness.tokenizer.convert_tokens_to_ids(THOUGHT)
    (answer,) = harness.play(limited(2))
    assert answer.tokens[2:4] == end_of(harness)


# --- any tokens -----------------------------------------------------------------------------


@pytest.mark.timeout(900)
@given(
    state=st.sampled_from([REASONING, "normal"]),
    limit=st.integers(0, 12),
    pieces=st.lists(
        st.sampled_from([THINK, THOUGHT, "<tool_call>", "</tool_call>", "a", "\n", "é", "</th"]),
        max_size=30,
    ),
)
@settings(max_examples=rounds(100, 1_000, 10_000))
def test_budget_of_any_answer_counts_as_its_text_does(
    tokenizer: Any, state: str, limit: int, pieces: list[str]
) -> None:
    end = list(thinking_end(tokenizer, Markers(tokenizer)).tokens)  # type: ignore[union-attr]
    written = [
        token
        for piece in pieces
        for token in (
            [tokenizer.convert_tokens_to_ids(piece)]
            if piece in tokenizer.get_added_vocab()
            else letters(tokenizer, piece)
        )
    ]
    answer = forced(tokenizer, written, limit, state)
    text = stream(tokenizer, state=state)
    stretch = 0
    for place, token in enumerate(answer):
        was_reasoning = text._state == REASONING
        text.add(token)
        stretch = stretch + 1 if was_reasoning and text._state == REASONING else 0
        if text.reasoning_tokens >= max(limit, 1) + 3 and stretch > 3:
            assert answer[place + 1 : place + 1 + len(end)] == end
    collect_spans(text, [])
    at_most = limit + 3 + 2 * len(end) * (1 + pieces.count(THINK)) + 4 * pieces.count(THINK)
    assert text.reasoning_tokens <= at_most
