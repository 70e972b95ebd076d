"""Who is prepared when, what is made once, and what is refused before any of the work."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.utils import load_tokenizer

from mlx_worker.child.fair_queue import FairQueue
from mlx_worker.child.preparation import (
    SHORT,
    ClientGone,
    Preparation,
    PreparationContext,
    PreparationFailed,
    ReadyToGenerate,
    ReadyToWarm,
    is_long,
)
from mlx_worker.child.slow_work import BUDGET, PIECE, WorkMonitor
from mlx_worker.engine.checks.text_bound import TextBound
from mlx_worker.engine.history.history import TurnHistory
from mlx_worker.engine.output.markers import Markers
from mlx_worker.engine.output.text_stream import TextStream
from mlx_worker.engine.sequence import Sequence
from mlx_worker.engine.structured.compiler import ConstraintCompiler
from mlx_worker.engine.templates.tool_offer import ToolOffers
from mlx_worker.errors import ContextLengthExceeded, InvalidRequest
from mlx_worker.wire.messages import Generate
from mlx_worker.wire.prompt_cache import Warm
from mlx_worker.wire.request import (
    ChatRequest,
    JsonSchemaConstraint,
    PromptScoring,
    RegexConstraint,
    Sampling,
)
from mlx_worker.wire.tokenizing import Detokenize, Tokenize
from tests.engine.text_harness import by_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.wire.splice import Splice

CONTEXT = 512
HELLO = {"role": "user", "content": "hello"}
LONG = "a" * (SHORT + 1)


class Desk:
    """A preparation without threads: each turn is taken when a test says so."""

    def __init__(self, folder: Path) -> None:
        tokenizer: Any = load_tokenizer(folder)
        self.constraints = ConstraintCompiler(tokenizer)
        bound = TextBound(tokenizer, CONTEXT)
        offers = ToolOffers(tokenizer, "refuse")
        history = TurnHistory(Markers(tokenizer), 1 << 20)
        self.tools = PreparationContext(
            tokenizer, self.constraints, bound, offers, history, drafts=True
        )
        self.prepared: list[Any] = []
        self.answers: list[Any] = []
        self.left: set[int] = set()
        self.held = WorkMonitor()
        self.work = Preparation(
            on_prepared=self.prepared.append,
            answer=self.answers.append,
            is_cancelled=self.left.__contains__,
            monitor=self.held,
        )

    def ids(self) -> list[int]:
        return [
            result.id if isinstance(result, ClientGone | PreparationFailed) else result.message.id
            for result in self.prepared
        ]


@pytest.fixture
def desk(caller: Path) -> Desk:
    return Desk(caller)


def generate(id_: int, text: str = "hello", body: str = "", **more: Any) -> Generate:
    turns = [{"role": "user", "content": text}]
    request = ChatRequest(turns, Sampling(id_), 4, **more)
    return Generate(id_, request, request_id=body)


# --- turns --------------------------------------------------------------------------------


def test_fair_queue_many_items_of_one_key_take_turns_with_others() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(4):
        queue.put("many", item)
    queue.put("one", 10)
    queue.put("two", 20)
    assert [queue.get()[1] for _ in range(6)] == [0, 10, 20, 1, 2, 3]


def test_preparation_a_small_body_comes_before_the_rest_of_a_large_one(desk: Desk) -> None:
    for choice in range(1, 97):
        desk.work.put(generate(choice, body="large"))
    desk.work.put(generate(100, body="small"))
    for _ in range(2):
        desk.work.short_turn(desk.tools)
    assert desk.ids() == [1, 100]


def test_preparation_long_text_leaves_the_turn_of_short_ones_at_once(desk: Desk) -> None:
    desk.work.put(generate(1, LONG))
    desk.work.put(generate(2))
    for _ in range(2):
        desk.work.short_turn(desk.tools)
    assert desk.ids() == [2]
    desk.work.long_turn(desk.tools)
    assert desk.ids() == [2, 1]


@pytest.mark.parametrize("drafts", [True, False])
def test_preparation_tokenizes_a_prediction_only_where_rows_draft(desk: Desk, drafts: bool) -> None:
    tools = replace(desk.tools, drafts=drafts)
    desk.work.put(generate(1, prediction="hello " * 20))
    desk.work.put(generate(2, prediction=LONG))
    for _ in range(2):
        desk.work.short_turn(tools)
    assert [len(ready.prompt.prediction) > 0 for ready in desk.prepared] == (
        [True] if drafts else [False, False]
    )


@pytest.mark.process
def test_preparation_a_grammar_leaves_the_turn_of_short_ones_at_once(desk: Desk) -> None:
    desk.work.put(generate(1, constraint=RegexConstraint("a+", "f")))
    desk.work.put(generate(2))
    for _ in range(2):
        desk.work.short_turn(desk.tools)
    assert desk.ids() == [2]
    assert desk.constraints.compiled == 0
    desk.work.grammar_turn(desk.tools)
    assert desk.ids() == [2, 1]
    assert isinstance(desk.prepared[1], ReadyToGenerate)
    assert desk.prepared[1].constraint is not None


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (Warm(1, LONG), True),
        (Warm(1, "a"), False),
        (Detokenize(1, [1] * SHORT), True),
        (Detokenize(1, [1]), False),
        (generate(1, tools=[{"a": [[]] * SHORT}]), True),
        (generate(1, template_kwargs={"a": {"b": LONG}}), True),
        (generate(1, prompt=[1] * SHORT), True),
        (generate(1, prompt="a"), False),
        (Tokenize(1, ChatRequest([], Sampling(1), prompt=LONG)), True),
    ],
)
def test_is_long_goes_by_all_that_work_has_to_walk_over(work: Any, expected: bool) -> None:
    assert is_long(work) == expected


# --- who has left -------------------------------------------------------------------------


def test_preparation_work_whose_client_has_left_is_not_done(desk: Desk) -> None:
    shape = RegexConstraint("b+", "f")
    for id_, text in ((1, "hello"), (2, LONG), (3, "hello")):
        desk.work.put(generate(id_, text, constraint=shape))
    desk.left |= {1, 2}
    for _ in range(3):
        desk.work.short_turn(desk.tools)
    desk.work.long_turn(desk.tools)
    assert desk.prepared == [ClientGone(1), ClientGone(2)]
    desk.left.add(3)
    desk.work.grammar_turn(desk.tools)
    assert desk.prepared[2] == ClientGone(3)
    assert desk.constraints.compiled == 0


# --- made once ----------------------------------------------------------------------------


@pytest.mark.process
def test_preparation_choices_of_one_body_share_prompt_and_grammar(desk: Desk) -> None:
    shape = JsonSchemaConstraint('{"type":"object","properties":{"a":{"pattern":"x+"}}}', "f")
    for choice in range(1, 9):
        desk.work.put(generate(choice, body="b", constraint=shape))
    for _ in range(8):
        desk.work.short_turn(desk.tools)
        desk.work.grammar_turn(desk.tools)
    assert len({id(result.prompt) for result in desk.prepared}) == 1
    assert len({id(result.constraint) for result in desk.prepared}) == 8
    assert desk.constraints.compiled == 1


def test_preparation_lost_generation_has_the_splices_that_it_began_with(desk: Desk) -> None:
    """Also none, where the process knows more than the one before."""
    turn = {"role": "assistant", "content": "moon"}
    prompts: list[Prompt] = []

    def prepared(id_: int, splices: list[Splice] | None) -> Prompt:
        chat = [HELLO, turn, HELLO] if id_ > 1 else [HELLO]
        plain = {"enable_thinking": False}
        request = ChatRequest(chat, Sampling(id_), 4, template_kwargs=plain)
        desk.work.put(Generate(id_, request, splices=splices))
        desk.work.short_turn(desk.tools)
        prompts.append(desk.prepared[-1].prompt)
        return prompts[-1]

    first = prepared(1, None)
    text = TextStream(Markers(desk.tools.tokenizer), ChatRequest([], Sampling(1)))
    tokens = by_bytes(desk.tools.tokenizer, "moon")
    desk.tools.history.remember(Sequence(1, first, text, sampled=tokens))
    (splice,) = prepared(2, None).splices
    assert splice.token_ids == tokens
    assert prepared(3, []).splices == ()
    desk.tools.history.clear()
    assert prepared(4, [splice]).tokens == prompts[1].tokens


def test_preparation_client_left_between_two_choices_nothing_is_kept(desk: Desk) -> None:
    desk.work.put(generate(1, body="one"))
    desk.work.put(generate(2, body="one"))
    desk.work.short_turn(desk.tools)
    desk.left.add(2)
    desk.work.short_turn(desk.tools)
    assert desk.ids() == [1, 2]
    assert desk.work._made == {}


def test_preparation_an_echo_has_its_text_beside_a_namesake_that_echoes_nothing(
    desk: Desk,
) -> None:
    """The key is the client's own X-Request-Id, which two of its requests may share."""
    scorings = (None, PromptScoring(listed=1), PromptScoring(echoed=1))
    for id_, scoring in enumerate(scorings):
        desk.work.put(generate(id_, body="one", prompt="moon", prompt_scoring=scoring))
    for _ in scorings:
        desk.work.short_turn(desk.tools)
    assert [result.prompt.text for result in desk.prepared] == ["", "", "moon"]


def test_preparation_other_prompts_of_one_body_are_their_own(desk: Desk) -> None:
    for id_, text in ((1, "hello"), (2, "moon"), (3, "hello")):
        desk.work.put(generate(id_, text, body="b"))
    for _ in range(3):
        desk.work.short_turn(desk.tools)
    first, second, third = (result.prompt.tokens for result in desk.prepared)
    assert first == third != second


@pytest.mark.process
def test_constraints_a_refused_grammar_is_compiled_once_too(desk: Desk) -> None:
    for id_ in (1, 2, 3):
        desk.work.put(generate(id_, constraint=RegexConstraint("a(b", "f")))
        desk.work.short_turn(desk.tools)
        desk.work.grammar_turn(desk.tools)
    assert desk.constraints.compiled == 1
    assert [str(result.error) for result in desk.prepared] == [str(desk.prepared[0].error)] * 3


# --- what is refused ----------------------------------------------------------------------


def test_preparation_text_beyond_the_context_is_refused_untokenized(desk: Desk) -> None:
    text = "b" * 4_000_000
    request = ChatRequest([], Sampling(1), prompt=text)
    works: list[Generate | Warm | Tokenize] = [
        generate(1, text),
        Warm(2, text),
        Tokenize(3, request),
    ]
    for work in works:
        desk.work.put(work)
        desk.work.short_turn(desk.tools)
        desk.work.long_turn(desk.tools)
    assert desk.ids() == [1, 2, 3]
    assert [type(result.error) for result in desk.prepared] == [ContextLengthExceeded] * 3
    assert [result.error.param for result in desk.prepared] == [
        "messages",
        "system_prompt",
        "prompt",
    ]
    assert "resulted in about 1000000 tokens" in desk.prepared[2].error.message


def test_preparation_more_ids_than_the_context_are_refused(desk: Desk) -> None:
    request = ChatRequest([], Sampling(1), prompt=[1] * (CONTEXT + 1))
    works: list[Detokenize | Tokenize] = [
        Detokenize(1, [1] * (CONTEXT + 1)),
        Tokenize(2, request),
    ]
    for work in works:
        desk.work.put(work)
        desk.work.short_turn(desk.tools)
    assert [type(result.error) for result in desk.prepared] == [ContextLengthExceeded] * 2
    desk.work.put(Detokenize(3, [1] * CONTEXT))
    desk.work.short_turn(desk.tools)
    assert len(desk.answers) == 1


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"template_kwargs": {"a": [[]] * 30_000}}, "chat_template_kwargs"),
        ({"tools": [{"type": "function", "function": {"a": [[]] * 300_000}}]}, "tools"),
    ],
)
def test_preparation_more_values_than_a_template_may_walk_over_are_refused(
    desk: Desk, more: dict[str, Any], param: str
) -> None:
    desk.work.put(generate(1, **more))
    desk.work.short_turn(desk.tools)
    desk.work.long_turn(desk.tools)
    (refused,) = desk.prepared
    assert isinstance(refused.error, InvalidRequest)
    assert refused.error.param == param


def test_preparation_half_a_surrogate_pair_is_refused(desk: Desk) -> None:
    wrong: list[Generate | Warm] = [generate(1, "\ud800"), Warm(2, "\udfff")]
    for id_, work in enumerate(wrong, 1):
        desk.work.put(work)
        desk.work.short_turn(desk.tools)
        assert isinstance(desk.prepared[id_ - 1].error, InvalidRequest)


def test_preparation_warm_head_is_prepared(desk: Desk) -> None:
    desk.work.put(Warm(1, "be brief"))
    desk.work.short_turn(desk.tools)
    assert isinstance(desk.prepared[0], ReadyToWarm)
    assert desk.prepared[0].tokens


# --- what held a thread -------------------------------------------------------------------


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_held_counts_only_work_beyond_its_budget_by_kind() -> None:
    clock = Clock()
    held = WorkMonitor(clock)
    for kind, seconds in (("prompt", BUDGET), ("prompt", BUDGET + 0.1), ("compile", 9.0)):
        with held.measure(kind):
            clock.now += seconds
    assert held.slow_counts == {"prompt": 1, "compile": 1}


def test_held_work_under_way_is_progress_but_not_for_ever() -> None:
    clock = Clock()
    held = WorkMonitor(clock)
    seen = [held.progress]
    with held.measure("prompt"):
        for _ in range(4):
            clock.now += PIECE / 2
            seen.append(held.progress)
    seen.append(held.progress)
    assert seen[0] < seen[1] < seen[2]
    assert seen[2] == seen[3] == seen[4]
    assert seen[5] > seen[4]
