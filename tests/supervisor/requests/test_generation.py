"""One request's life: what the connection says on one side, what its reader gets on the other."""

import asyncio

import pytest

from mlx_worker import errors
from mlx_worker.errors import RequestTimedOut, WorkerError
from mlx_worker.supervisor.process.connection import ResponseMessage
from mlx_worker.supervisor.requests.generation import FinishInfo, Generation
from mlx_worker.supervisor.requests.output_buffer import OutputDelta, Scores
from mlx_worker.wire.messages import PrefillProgress, RequestFailed, Started
from mlx_worker.wire.output import (
    Done,
    InvalidToolCall,
    PromptScores,
    ReasoningText,
    RowOutput,
    ToolCall,
)
from tests.supervisor_harness import chat, soon, taken, text_of

STARTED = Started(1, 4, 2, cache_hit=True)
FAILED = RequestFailed(1, "inference_error", "it broke")


class Heard:
    """A generation, and the owner to whom it says what it wants of the world."""

    def __init__(self, *, keepalive_interval: float = 3600) -> None:
        self.said: list[str] = []
        self.it = Generation(chat("hello"), "session", self, keepalive_interval=keepalive_interval)

    def process_lost(self, generation: Generation, why: str) -> None:
        assert generation is self.it
        self.said.append(f"lost: {why}")

    def first_token_after_resume(self, generation: Generation, after: float) -> None:
        assert generation is self.it
        assert after > 0
        self.said.append("spoke again")

    def client_disconnected(self, generation: Generation) -> None:
        assert generation is self.it
        self.said.append("left")

    def abort(self, generation: Generation, error: WorkerError) -> None:
        assert generation is self.it
        self.it.fail(error)

    def generation_ended(self, generation: Generation) -> None:
        assert generation is self.it
        self.said.append("ended")

    def deliver(self, *messages: ResponseMessage) -> None:
        for message in messages:
            self.it.on_message(message)

    def lose(self) -> None:
        self.it.on_connection_lost("it died")


async def test_it_has_started_when_the_child_says_so() -> None:
    heard = Heard()
    waiting = asyncio.create_task(heard.it.started())
    await asyncio.sleep(0)
    assert not waiting.done()
    heard.deliver(STARTED)
    assert await soon(waiting) == STARTED


async def test_whoever_gives_up_waiting_for_the_start_does_not_spoil_it_for_others() -> None:
    heard = Heard()
    impatient = asyncio.create_task(heard.it.started())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait({impatient})
    heard.deliver(STARTED)
    assert await soon(heard.it.started()) == STARTED


async def test_a_reader_that_lags_takes_everything_at_once() -> None:
    heard = Heard()
    heard.deliver(STARTED, RowOutput(1, [1], "one"), RowOutput(1, [2, 3], " two three"))
    assert await text_of(heard.it) == "one two three"
    assert heard.it.tokens == [1, 2, 3]


async def test_spans_stay_in_order_and_neighbours_of_one_kind_are_one() -> None:
    heard = Heard()
    look = ToolCall("call_1", "look", "{}")
    heard.deliver(
        STARTED,
        RowOutput(1, [1], "", [], [ReasoningText("a")]),
        RowOutput(1, [2], "", [], [ReasoningText("b")]),
        RowOutput(1, [3], "one"),
        RowOutput(1, [4], " two"),
        RowOutput(1, [5], " three", [], [look, look]),
        RowOutput(1, [6], " four", [], [" and"]),
    )
    piece = await soon(taken(heard.it))
    assert piece == OutputDelta([ReasoningText("ab"), "one two", look, look, " three and four"], [])
    assert piece.spans == [ReasoningText("ab"), "one two", look, look, " three and four"]


async def test_a_reader_that_waits_is_woken_by_a_span_and_gets_those_that_were_held_back() -> None:
    heard = Heard()
    reading = asyncio.create_task(taken(heard.it))
    await asyncio.sleep(0)
    heard.deliver(STARTED, RowOutput(1, [1], "", [], [ReasoningText("a")]))
    assert await soon(reading) == OutputDelta([ReasoningText("a")], [])
    cut = InvalidToolCall("{", "cut short")
    heard.deliver(Done(1, "length", 2, "", [cut]))
    assert await soon(taken(heard.it)) == OutputDelta([cut], [])
    assert await soon(taken(heard.it)) is None


async def test_a_reader_that_waits_is_woken_by_text_and_not_by_tokens_without_any() -> None:
    heard = Heard()
    reading = asyncio.create_task(text_of(heard.it))
    await asyncio.sleep(0)
    heard.deliver(STARTED, PrefillProgress(1, 4, 4), RowOutput(1, [1], ""))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not reading.done()
    heard.deliver(RowOutput(1, [2], "at last"))
    assert await soon(reading) == "at last"


async def test_the_end_gives_what_was_held_back_then_nothing_for_ever() -> None:
    heard = Heard()
    heard.deliver(STARTED, RowOutput(1, [1], "one"), Done(1, "length", 2, " two"))
    assert await text_of(heard.it) == "one two"
    assert await text_of(heard.it) == ""
    assert await text_of(heard.it) == ""
    assert heard.it.finish_info == FinishInfo("length", 2)
    assert heard.said == ["ended"]


async def test_a_failure_is_raised_after_everything_said_before_it_and_stays() -> None:
    heard = Heard()
    heard.deliver(STARTED, RowOutput(1, [1], "one"), FAILED)
    assert await text_of(heard.it) == "one"
    for _ in range(2):
        with pytest.raises(errors.InferenceError, match="it broke"):
            await text_of(heard.it)
    assert await soon(heard.it.started()) == STARTED
    assert heard.it.finish_info is None
    assert heard.said == ["ended"]


async def test_the_loss_of_its_process_is_no_end_and_what_the_next_one_says_follows() -> None:
    heard = Heard()
    heard.deliver(STARTED, RowOutput(1, [1], "one"))
    heard.lose()
    assert heard.said == ["lost: it died"]
    heard.deliver(
        Started(2, 5, 5, cache_hit=False), RowOutput(2, [2], " two"), Done(2, "stop", 2, "")
    )
    assert await soon(heard.it.started()) == STARTED
    assert await text_of(heard.it) == "one two"
    assert await text_of(heard.it) == ""
    assert heard.it.tokens == [1, 2]
    assert heard.said == ["lost: it died", "ended"]


async def test_lost_before_its_start_it_starts_with_the_next_process() -> None:
    heard = Heard()
    heard.lose()
    waiting = asyncio.create_task(heard.it.started())
    await asyncio.sleep(0)
    assert not waiting.done()
    again = Started(2, 5, 5, cache_hit=False)
    heard.deliver(again)
    assert await soon(waiting) == again


async def test_progress_without_a_word_is_a_sign_of_life() -> None:
    heard = Heard(keepalive_interval=0)
    reading = asyncio.create_task(taken(heard.it))
    await asyncio.sleep(0)
    heard.deliver(STARTED, PrefillProgress(1, 1, 4), PrefillProgress(1, 2, 4))
    assert await soon(reading) == OutputDelta([], [])
    heard.deliver(RowOutput(1, [1], "one"))
    assert await text_of(heard.it) == "one"


async def test_tokens_without_text_are_a_sign_of_life() -> None:
    heard = Heard(keepalive_interval=0)
    reading = asyncio.create_task(taken(heard.it))
    await asyncio.sleep(0)
    heard.deliver(STARTED, RowOutput(1, [1], ""))
    assert await soon(reading) == OutputDelta([], [])
    heard.deliver(RowOutput(1, [2], "one"))
    assert await text_of(heard.it) == "one"


async def test_progress_rises_with_tokens_and_reports_and_stays_over_a_loss() -> None:
    heard = Heard()
    heard.deliver(STARTED)
    assert heard.it.progress == 0
    heard.deliver(PrefillProgress(1, 1, 4), PrefillProgress(1, 2, 4), RowOutput(1, [1], "one"))
    assert heard.it.progress == 3
    heard.lose()
    heard.it.on_progress()
    assert heard.it.progress == 4


async def test_signs_of_life_are_not_given_too_often() -> None:
    heard = Heard(keepalive_interval=3600)
    reading = asyncio.create_task(taken(heard.it))
    await asyncio.sleep(0)
    heard.deliver(STARTED, PrefillProgress(1, 1, 4))
    heard.it.on_progress()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not reading.done()
    heard.deliver(RowOutput(1, [1], "one"))
    assert await soon(reading) == OutputDelta(["one"], [])


async def test_a_reader_that_waits_is_woken_by_a_failure() -> None:
    heard = Heard()
    reading = asyncio.create_task(text_of(heard.it))
    await asyncio.sleep(0)
    heard.deliver(FAILED)
    with pytest.raises(errors.InferenceError):
        await soon(reading)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("context_length_exceeded", errors.ContextLengthExceeded),
        ("invalid_request", errors.InvalidRequest),
        ("unsupported_field", errors.UnsupportedField),
        ("inference_error", errors.InferenceError),
        ("cache_error", errors.CacheError),
        ("nobody knows this one", errors.WorkerError),
    ],
)
async def test_a_refusal_before_the_start_is_the_error_that_the_child_named(
    code: str, kind: type[errors.WorkerError]
) -> None:
    heard = Heard()
    heard.deliver(RequestFailed(1, code, "5000 tokens of 4096"))
    with pytest.raises(errors.WorkerError, match="5000 tokens of 4096") as refused:
        await soon(heard.it.started())
    assert type(refused.value) is kind


async def test_leaving_is_said_while_it_runs() -> None:
    heard = Heard()
    heard.deliver(STARTED)
    heard.it.cancel()
    assert heard.said == ["left"]
    heard.deliver(Done(1, "cancelled", 0, ""))
    assert await text_of(heard.it) == ""
    assert heard.said == ["left", "ended"]


async def test_dropped_it_ends_with_what_it_had() -> None:
    heard = Heard()
    heard.deliver(STARTED, RowOutput(1, [1], "one"))
    heard.lose()
    heard.it.end_cancelled()
    assert await text_of(heard.it) == "one"
    assert await text_of(heard.it) == ""
    assert heard.it.finish_info == FinishInfo("cancelled", 1)


@pytest.mark.parametrize("last_word", [Done(1, "stop", 0, ""), FAILED])
async def test_leaving_after_the_end_says_nothing(last_word: Done | RequestFailed) -> None:
    heard = Heard()
    heard.deliver(STARTED, last_word)
    heard.it.cancel()
    assert heard.said == ["ended"]


# --- its time -------------------------------------------------------------------------------


async def test_what_is_not_done_by_its_deadline_fails_and_what_comes_later_is_not_heard() -> None:
    heard = Heard()
    heard.abort(heard.it, RequestTimedOut("too late"))
    with pytest.raises(RequestTimedOut):
        await soon(taken(heard.it))
    heard.deliver(Done(1, "cancelled", 3, ""))
    heard.lose()
    assert heard.said == ["ended"]


async def test_what_is_done_has_no_deadline_any_more() -> None:
    heard = Heard()
    loop = asyncio.get_running_loop()
    error = RequestTimedOut("too late")
    heard.it.deadline = loop.call_later(0.05, heard.abort, heard.it, error)
    heard.deliver(STARTED, Done(1, "stop", 1, "hello"))
    passed = asyncio.Event()
    loop.call_later(0.1, passed.set)
    await soon(passed.wait())
    assert heard.said == ["ended"]
    assert await text_of(heard.it) == "hello"


def scores(*stretches: str, last: bool) -> list[PromptScores]:
    return [
        PromptScores(1, [text.encode()] * 4, b"", is_last=last and text is stretches[-1])
        for text in stretches
    ]


async def test_scores_of_a_prompt_are_taken_once_and_whole() -> None:
    heard = Heard()
    heard.deliver(STARTED, *scores("null", "-1.5", last=False))
    assert heard.it.output.drain() is None
    heard.deliver(*scores("", last=True), RowOutput(1, [5], "a"))
    piece = heard.it.output.drain()
    assert piece == OutputDelta(["a"], [], scores=Scores([b"null,-1.5"] * 4, b""))
    heard.deliver(RowOutput(1, [6], "b"))
    assert heard.it.output.drain() == OutputDelta(["b"], [])


async def test_scores_that_a_crash_cut_short_are_those_of_the_next_process() -> None:
    heard = Heard()
    heard.deliver(STARTED, *scores("null", "-1.5", last=False))
    heard.lose()
    heard.it.on_process_lost("it died")
    heard.deliver(STARTED, *scores("null", "-1.25,-2.5", "", last=True))
    assert heard.it.output.drain() == OutputDelta(
        [], [], scores=Scores([b"null,-1.25,-2.5"] * 4, b"")
    )


async def test_scores_that_are_whole_are_not_told_again_after_a_crash() -> None:
    heard = Heard()
    heard.deliver(STARTED, *scores("null", last=True))
    assert heard.it.output.drain() is not None
    heard.lose()
    heard.it.on_process_lost("it died")
    heard.deliver(STARTED, *scores("null", last=True))
    assert heard.it.output.drain() is None
