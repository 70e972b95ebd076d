"""Where prompts part: in the usage of every dialect, a header, metrics, an event, log and table."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.api.metrics.counters import EVENTS_AT_ONCE, MIN_LOST_TOKENS
from mlx_worker.config.schema import ServerConfig
from tests.dialects import ALL, CHAT, CHATS, Dialect
from tests.front.asking import model
from tests.sse import events_of
from tests.supervisor_harness import kill_worker

if TYPE_CHECKING:
    from pathlib import Path

    from tests.front.asking import Answer, Front, Serve

HEADER = "X-Prompt-Parted"
WORDS = "word " * (2 * MIN_LOST_TOKENS)
KEYS = {"ada": "a-key-of-sixteen-characters", "bob": "b-key-of-sixteen-characters"}


def conversation(*texts: str, system: str = "be kind") -> dict[str, Any]:
    roles = ("user", "assistant")
    turns = [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]
    return {"messages": [{"role": "system", "content": system}, *turns]}


async def ask(front: Front, *texts: str, session: str = "s", system: str = "be kind") -> Answer:
    answer = await front.ask(CHAT.path, conversation(*texts, system=system), X_Session_Id=session)
    assert answer.status == 200
    return answer


def usage_of(dialect: Dialect, answer: Answer, *, stream: bool) -> Any:
    """Return the object of a response that has the node's own field."""
    body: Any = None
    if not stream:
        body = answer.json
    else:
        events = [data for _, data in events_of(answer.body) if data != "[DONE]"]
        body = next(
            event.get("response", event)
            for event in reversed(events)
            if event.get("response", event).get("usage")
        )
    usage = body["usage"]
    match dialect.name:
        case "messages":
            return usage
        case "responses":
            return usage["input_tokens_details"]
        case _:
            return usage["prompt_tokens_details"]


@pytest.mark.parametrize("dialect", ALL, ids=repr)
@pytest.mark.parametrize("stream", [False, True])
async def test_parting_is_in_the_usage_and_a_header(
    serve: Serve, dialect: Dialect, stream: bool
) -> None:
    front = await serve()
    fields: dict[str, Any] = {"stream": True} if stream else {}
    if stream and dialect.name in ("chat", "completions"):
        fields |= {"stream_options": {"include_usage": True}}
    first, second = [
        await front.ask(dialect.path, dialect.body(text, **fields), X_Session_Id="s")
        for text in ("one two three", "one two four")
    ]
    assert first.headers[HEADER] == "part=unknown"
    assert "mlx_worker_session" not in usage_of(dialect, first, stream=stream)
    told = usage_of(dialect, second, stream=stream)["mlx_worker_session"]
    if dialect in CHATS:
        assert second.headers[HEADER] == "part=turn, turn=1, role=user, shared=2, last=3"
        assert told == {
            "shared_tokens": 2,
            "last_prompt_tokens": 3,
            "parted": "turn",
            "turn": 1,
            "role": "user",
        }
    else:
        assert second.headers[HEADER] == "part=prompt, shared=2, last=3"
        assert told == {"shared_tokens": 2, "last_prompt_tokens": 3, "parted": "prompt"}


async def test_parting_of_a_conversation_that_goes_on_is_none(serve: Serve) -> None:
    front = await serve()
    await ask(front, "one")
    answer = await ask(front, "one", "two", "three")
    assert answer.headers[HEADER] == "part=none, shared=3, last=3"


@pytest.mark.parametrize("fields", [{}, {"user": "ada"}])
async def test_parting_without_a_conversation_is_not_told(
    serve: Serve, fields: dict[str, str]
) -> None:
    front = await serve()
    for _ in range(2):
        answer = await front.ask(CHAT.path, conversation("one") | fields)
        assert HEADER not in answer.headers
    assert "mlx_worker_session_prompts_total{" not in (await metrics(front))


async def test_parting_of_another_keys_session_is_never_compared(
    serve: Serve, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("".join(f"{name}:{key}\n" for name, key in KEYS.items()))
    file.chmod(0o600)
    front = await serve(server=ServerConfig(api_keys_file=file))
    told = []
    for name in ("ada", "bob", "ada"):
        body = conversation("one")
        shown = f"Bearer {KEYS[name]}"
        answer = await front.ask(CHAT.path, body, X_Session_Id="s", Authorization=shown)
        told.append(answer.headers.get(HEADER))
    assert told == ["part=unknown", "part=unknown", "part=none, shared=3, last=3"]


async def test_parting_after_a_restart_of_the_process_is_unknown(serve: Serve) -> None:
    front = await serve()
    await ask(front, "one")
    pid = (await front.model())["pid"]
    kill_worker(pid)
    await front.reaches(state="ready", restarts=1)
    after = [(await ask(front, "one", "two", "three")).headers[HEADER] for _ in range(2)]
    assert after == ["part=unknown", "part=none, shared=5, last=5"]


async def metrics(front: Front) -> str:
    return (await front.ask("/metrics")).body.decode()


async def test_parting_is_counted_and_in_the_log_and_in_the_table(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    front = await serve()
    with caplog.at_level(logging.INFO):
        await ask(front, "one two")
        await ask(front, "one two", "three", "four")
        await ask(front, "one other", "three", "four")
    text = await metrics(front)
    for line in (
        'mlx_worker_session_prompts_total{model="m",part="unknown"} 1.0',
        'mlx_worker_session_prompts_total{model="m",part="none"} 1.0',
        'mlx_worker_session_prompts_total{model="m",part="turn"} 1.0',
        'mlx_worker_session_shared_tokens_total{model="m"} 7.0',
        'mlx_worker_session_lost_tokens_total{model="m",part="turn"} 3.0',
    ):
        assert line in text
    assert 'session_lost_tokens_total{model="m",part="none"}' not in text
    lines = [line for line in caplog.messages if line.startswith("request ")]
    assert "parted=-" in lines[0]
    assert "shared_tokens=4 parted=none" in lines[1]
    assert "shared_tokens=3 parted=" in lines[2]
    assert "turn 1 (user)" in lines[2]
    (last, second, first) = (await front.ask("/admin/requests")).json["recent"]
    assert [(row["sharedTokens"], row["parted"]) for row in (first, second, last)] == [
        (None, None),
        (4, "none"),
        (3, "turn 1 (user)"),
    ]


async def test_parting_that_loses_many_tokens_is_an_event_without_text(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    front = await serve()
    with caplog.at_level(logging.INFO):
        await ask(front, WORDS, system="be secret")
        await ask(front, WORDS, system="be other")
    assert [line for line in caplog.messages if line.startswith("prompt parted model=m ")]
    await ask(front, WORDS, system="be other", session="short")
    answer = await front.ask("/admin/events")
    (event,) = [event for event in answer.json["events"] if event["kind"] == "prompt parted"]
    facts = event["facts"]
    assert event["model"] == "m"
    assert (facts["part"], facts["turn"], facts["shared_tokens"]) == ("system", None, 1)
    assert facts["lost_tokens"] == 2 * MIN_LOST_TOKENS + 1
    assert b"secret" not in answer.body


async def test_partings_in_every_turn_are_few_events(serve: Serve) -> None:
    front = await serve(models=(model(max_concurrency=1),))
    for number in range(2 * EVENTS_AT_ONCE):
        await ask(front, WORDS, system=f"number {number}")
    listed = (await front.ask("/admin/events")).json["events"]
    parted = [event for event in listed if event["kind"] == "prompt parted"]
    assert EVENTS_AT_ONCE <= len(parted) < 2 * EVENTS_AT_ONCE - 1
    count = f'session_prompts_total{{model="m",part="system"}} {2 * EVENTS_AT_ONCE - 1}.0'
    assert count in (await metrics(front))
