"""Answers that loop, played through an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from mlx_worker.wire.request import EndConditions, LoopRule
from tests.rounds import rounds, variants
from tests.structured_harness import EngineHarness, asked, schema
from tests.synthetic_models import THOUGHT

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.wire.request import ChatRequest

RULE: Final = LoopRule(repeats=4, tokens=32)
SAMPLERS: Final[list[dict[str, Any]]] = [{}, {"temperature": 0.9, "seed": 7}]
NOTICE: Final = (
    "the answer was ended because it repeats itself: its last 32 tokens are the same 1 again and"
    " again"
)
LIST: Final = {"type": "array", "items": {"const": "abcde"}, "minItems": 60}


@pytest.fixture(scope="module")
def harness(caller: Path) -> EngineHarness:
    return EngineHarness(caller)


def looping(harness: EngineHarness, **fields: Any) -> ChatRequest:
    """Return a request whose answer is five tokens of reasoning, then one token for ever."""
    bias = dict.fromkeys(harness.tokenizer.encode("!"), 60.0)
    defaults: dict[str, Any] = {"bias": bias, "max_tokens": 80, "loop_rule": RULE}
    ends = EndConditions(ignore_eos=True)
    return asked(thinking_budget=5, ends=ends, **(defaults | fields))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_answer_that_loops_ends_with_length_and_a_notice(
    harness: EngineHarness, sampler: dict[str, Any]
) -> None:
    (bang,) = harness.tokenizer.encode("!")
    thought = harness.tokenizer.convert_tokens_to_ids(THOUGHT)
    (answer,) = harness.play(looping(harness, **sampler))
    assert answer.tokens == [*[bang] * 5, thought, *[bang] * 32]
    assert (answer.finish, answer.loop_period, answer.text) == ("length", 1, "!" * 32)
    assert answer.notices == [NOTICE]
    (free,) = harness.play(looping(harness, loop_rule=None, **sampler))
    assert (len(free.tokens), free.loop_period, free.notices) == (80, 0, [])


@pytest.mark.parametrize("sampler", variants(SAMPLERS, SAMPLERS[1:]))
def test_loop_replayed_after_any_token_ends_at_the_same(
    harness: EngineHarness, sampler: dict[str, Any]
) -> None:
    request = looping(harness, **sampler)
    (answer,) = harness.play(request)
    for done in range(1, len(answer.tokens) + 1, rounds(5, 1, 1)):
        (rest,) = harness.play(request, replay=answer.tokens[:done])
        assert answer.tokens[:done] + rest.tokens == answer.tokens
        assert (rest.finish, rest.loop_period) == ("length", 1)
        assert rest.notices == answer.notices


def test_bound_answer_that_loops_ends_in_its_repetition(harness: EngineHarness) -> None:
    blanks = {token: -100.0 for name in "\n\t " for token in harness.tokenizer.encode(name)}
    request = asked(schema(LIST), thinking_budget=2, bias=blanks, loop_rule=RULE)
    (answer,) = harness.play(request)
    assert answer.finish == "length"
    assert answer.loop_period > 1
    assert answer.text.startswith('["abcde","abcde",')
    (again,) = harness.play(request, replay=answer.tokens[:-1])
    assert again.tokens == answer.tokens[-1:]


def test_other_ends_at_the_token_of_a_loop_go_first(harness: EngineHarness) -> None:
    (stopped,) = harness.play(looping(harness, stop=["!" * 32]))
    assert (stopped.finish, stopped.loop_period, stopped.notices) == ("stop", 0, [])
    (cut,) = harness.play(looping(harness, max_tokens=38))
    assert (cut.finish, cut.loop_period) == ("length", 1)


@pytest.mark.full
def test_loops_in_a_batch_are_those_alone(harness: EngineHarness) -> None:
    rules = [RULE, None, LoopRule(4, 16), LoopRule(30, 20), LoopRule(8, 40), RULE, None, RULE]
    requests = [
        looping(harness, loop_rule=rule, **SAMPLERS[place % 2]) for place, rule in enumerate(rules)
    ]
    together = harness.play(*requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = harness.play(request)
        assert answer == alone
