"""Several choices of one chat: begun together, told apart, ended together."""

from pathlib import Path

import pytest

from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from tests.front.asking import Answer, Front, Serve, asked, model
from tests.supervisor_harness import Fifo, soon

HELLO = "one two three"


def told(answer: Answer, choice: int) -> str:
    """What a stream says of one choice."""
    return "".join(
        part["delta"].get("content", "")
        for event in answer.events
        if event != "[DONE]"
        for part in event["choices"]
        if part["index"] == choice
    )


async def test_a_whole_answer_has_them_all_and_counts_their_tokens(serve: Serve) -> None:
    front = await serve()
    answer = await front.chat(HELLO, n=3)
    assert answer.status == 200
    choices = answer.json["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in choices] == [HELLO] * 3
    assert answer.json["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 9,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


async def test_a_stream_says_each_and_is_done_once(serve: Serve) -> None:
    front = await serve()
    answer = await front.chat(HELLO, n=3, stream=True, stream_options={"include_usage": True})
    assert [told(answer, choice) for choice in range(3)] == [HELLO] * 3
    *events, usage, done = answer.events
    assert done == "[DONE]"
    assert usage["usage"]["completion_tokens"] == 9
    finishes = [ended["finish_reason"] for event in events for ended in event["choices"]]
    assert [reason for reason in finishes if reason] == ["stop"] * 3


async def test_choices_interleave(serve: Serve, pace: Fifo) -> None:
    """A step generates a word of every row: no choice waits for the end of another."""
    front = await serve("--pace", pace.path)
    response = await soon(front.open("/v1/chat/completions", asked(HELLO, n=2, stream=True)))
    pace.let(1)
    begun = b""
    while begun.count(b'"one"') < 2:
        begun += await soon(response.content.readany())
    assert b'"stop"' not in begun
    pace.let(20)
    assert (await soon(response.read())).endswith(b"data: [DONE]\n\n")


async def test_more_choices_than_rows_wait_in_line_for_one_another(serve: Serve) -> None:
    front = await serve(models=(model(max_concurrency=1, max_queue=3),))
    answer = await front.chat(HELLO, n=4)
    assert [choice["message"]["content"] for choice in answer.json["choices"]] == [HELLO] * 4


async def test_more_than_could_ever_wait_are_refused_with_the_numbers(serve: Serve) -> None:
    front = await serve(models=(model(max_concurrency=2, max_queue=1),))
    answer = await front.chat(HELLO, n=4)
    assert (answer.status, answer.error["param"]) == (400, "n")
    assert "4" in answer.error["message"]
    assert "3" in answer.error["message"]
    assert (await front.chat(HELLO, n=3)).status == 200


async def test_choices_that_do_not_fit_now_are_refused_and_none_is_left_running(
    serve: Serve, pace: Fifo
) -> None:
    front = await serve("--pace", pace.path, models=(model(max_concurrency=2, max_queue=1),))
    response = await soon(front.open("/v1/chat/completions", asked(HELLO, n=2, stream=True)))
    answer = await front.chat(HELLO, n=2)
    assert (answer.status, answer.error["code"]) == (429, "queue_full")
    await front.reaches(running=2, queueDepth=0)
    pace.let(20)
    assert (await soon(response.read())).endswith(b"data: [DONE]\n\n")


async def test_a_client_that_leaves_ends_all_of_them(serve: Serve, pace: Fifo) -> None:
    front = await serve("--pace", pace.path)
    response = await soon(front.open("/v1/chat/completions", asked(HELLO, n=3, stream=True)))
    await front.reaches(running=3)
    response.close()
    await front.reaches(running=0)


async def test_a_choice_that_fails_fails_the_answer(serve: Serve) -> None:
    front = await serve("--fail-after-tokens", "2")
    answer = await front.chat(HELLO, n=2, stream=True)
    *_, last = answer.events
    assert last["error"]["code"] == "inference_error"
    assert (await front.chat(HELLO, n=2)).status == 500
    await front.reaches(running=0)


@pytest.mark.parametrize("stream", [True, False])
async def test_all_choices_go_on_in_the_next_process(
    serve: Serve, tmp_path: Path, stream: bool
) -> None:
    front = await serve("--die-after-tokens", "2", "--once", tmp_path / "died")
    answer = await front.chat(HELLO, n=3, stream=stream)
    assert answer.status == 200
    if stream:
        assert [told(answer, choice) for choice in range(3)] == [HELLO] * 3
    else:
        assert [choice["message"]["content"] for choice in answer.json["choices"]] == [HELLO] * 3
    entry = await front.model()
    assert entry["resumes"] == 3
    assert_one_request(front, entry)


async def test_choices_child_lost_for_good_is_one_error_for_all(
    serve: Serve,
) -> None:
    front = await serve("--die-after-tokens", "2", policy=RestartPolicy(intensity=0))
    answer = await front.chat(HELLO, n=3)
    assert (answer.status, answer.error["code"]) == (503, "child_lost")
    assert_one_request(front, await front.model())


def assert_one_request(front: Front, entry: dict[str, dict[str, int]]) -> None:
    assert entry["metrics"]["totalRequests"] == 1
