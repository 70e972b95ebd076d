"""Histories as clients send them, on a real node: begun answers, pictures, keys, probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic
import pytest

if TYPE_CHECKING:
    import openai

    from tests.processes import RunningNode

U: Any = {"role": "user", "content": "Hello"}
PICTURE: Any = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
}
USE: Any = {"type": "tool_use", "id": "t1", "name": "Read", "input": {"path": "a.png"}}


def chat(client: openai.OpenAI, messages: list[Any], max_tokens: int = 24, **body: Any) -> str:
    answer = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=max_tokens, temperature=0, extra_body=body
    )
    return answer.choices[0].message.content or ""


def begun_of(answer: str) -> str:
    """Return the beginning of an answer, with the first space that answers are told without."""
    return f" {answer[: answer.index(' ', len(answer) // 3)]}"


def test_chat_continues_its_last_message(client: openai.OpenAI) -> None:
    whole = chat(client, [U])
    begun = begun_of(whole)
    messages = [U, {"role": "assistant", "content": begun}]
    asked: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}
    rest = chat(client, messages, **asked)
    assert (begun + rest).removeprefix(" ").startswith(whole)
    with client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=24, temperature=0, extra_body=asked, stream=True
    ) as chunks:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == rest


def test_message_continues_the_assistants(client: openai.OpenAI, claude: Any) -> None:
    whole = chat(client, [U])
    begun = begun_of(whole)
    messages = [U, {"role": "assistant", "content": begun}]
    answer = claude.messages.create(model="tiny", messages=messages, max_tokens=24)
    assert (begun + answer.content[0].text).removeprefix(" ").startswith(whole)
    counted = claude.messages.count_tokens(model="tiny", messages=messages).input_tokens
    usage = answer.usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_session_goes_on_after_a_tool_has_read_a_picture(claude: Any) -> None:
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [PICTURE]}
    messages: list[Any] = [
        U,
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [result, {"type": "text", "text": "and?"}]},
    ]
    answer = claude.messages.create(model="tiny", messages=messages, max_tokens=8)
    messages += [{"role": "assistant", "content": answer.content}, U]
    claude.messages.create(model="tiny", messages=messages, max_tokens=8)
    with pytest.raises(anthropic.BadRequestError, match="'image'"):
        claude.messages.create(
            model="tiny", messages=[{"role": "user", "content": [PICTURE]}], max_tokens=8
        )


def test_large_body_keeps_the_keys_of_its_messages(node: RunningNode) -> None:
    """A body that is parsed in a process of its own."""
    long = "old bank " * 20_000
    body = {
        "model": "tiny",
        "max_tokens": 4,
        "messages": [U, {"role": "assistant", "refusal": "no", "note": long}, U],
    }
    answer = node.ask("/v1/chat/completions", body)
    assert answer.status == 200, answer.json


def test_response_tells_the_probabilities_of_its_text(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "input": "Hello",
        "max_output_tokens": 16,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    }
    (item,) = client.responses.create(**asked).output
    (part,) = item.content
    assert len(part.logprobs) == 16
    data = b"".join(bytes(logprob.bytes) for logprob in part.logprobs)
    assert data.decode().strip() == part.text.strip()
    assert all(len(logprob.top_logprobs) == 2 for logprob in part.logprobs)
    with client.responses.create(**asked, stream=True) as events:
        told = [entry for entry in events if entry.type == "response.output_text.delta"]
    tokens = [logprob.token for event in told for logprob in event.logprobs]
    assert tokens == [logprob.token for logprob in part.logprobs][: len(tokens)]


def test_prompts_of_a_session_say_where_they_part(client: openai.OpenAI) -> None:
    def parted(*texts: str) -> str | None:
        roles = ("user", "assistant")
        turns: list[Any] = [
            {"role": roles[at % 2], "content": text} for at, text in enumerate(texts)
        ]
        answer = client.chat.completions.with_raw_response.create(
            model="tiny",
            messages=turns,
            max_tokens=8,
            temperature=0,
            extra_headers={"X-Session-Id": "where they part"},
        )
        said: str | None = answer.headers.get("X-Prompt-Parted")
        return said

    assert parted("Hello there") == "part=unknown"
    assert (parted("Hello there") or "").startswith("part=none, ")
    told = parted("Hello there", "another answer", "Go on")
    assert (told or "").startswith("part=answer, turn=2, role=assistant, ")
    told = parted("Goodbye", "another answer", "Go on")
    assert (told or "").startswith("part=turn, turn=1, role=user, ")
