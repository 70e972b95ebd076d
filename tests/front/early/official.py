"""The official clients, each with the same idle limit for every wait; none tries twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import anthropic
import openai

from tests.front.early.reading import TEXT

if TYPE_CHECKING:
    from tests.front.asking import Front

TURNS: Any = [{"role": "user", "content": TEXT}]


class Refused(Exception):
    """The error event of a response, which OpenAI's library hands on and does not raise."""


def openais(front: Front, limit: float) -> openai.AsyncOpenAI:
    url = str(front.client.make_url("/v1"))
    return openai.AsyncOpenAI(base_url=url, api_key="-", max_retries=0, timeout=limit)


async def chat(front: Front, limit: float) -> tuple[str, int]:
    async with (
        openais(front, limit) as client,
        client.chat.completions.stream(
            model="m", messages=TURNS, stream_options={"include_usage": True}
        ) as stream,
    ):
        gathered = await stream.get_final_completion()
    assert gathered.usage
    assert gathered.system_fingerprint
    return gathered.choices[0].message.content or "", gathered.usage.prompt_tokens


async def complete(front: Front, limit: float) -> tuple[str, int]:
    text, usage = "", 0
    async with openais(front, limit) as client:
        stream = await client.completions.create(
            model="m", prompt=TEXT, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            text += "".join(choice.text for choice in chunk.choices)
            usage = chunk.usage.prompt_tokens if chunk.usage else usage
    return text, usage


async def respond(front: Front, limit: float) -> tuple[str, int]:
    async with (
        openais(front, limit) as client,
        client.responses.stream(model="m", input=TEXT) as stream,
    ):
        async for event in stream:
            if event.type == "error":
                raise Refused(event.message)
        gathered = await stream.get_final_response()
    assert gathered.usage
    return gathered.output_text, gathered.usage.input_tokens


async def message(front: Front, limit: float) -> tuple[str, int]:
    url = str(front.client.make_url(""))
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key="-", max_retries=0, timeout=limit) as client,
        client.messages.stream(model="m", max_tokens=9, messages=TURNS) as stream,
    ):
        gathered: Any = await stream.get_final_message()
    return gathered.content[0].text, gathered.usage.input_tokens


class Ask(Protocol):
    """Ask a front for a stream; return its text and the tokens of its prompt."""

    async def __call__(self, front: Front, limit: float) -> tuple[str, int]: ...


CLIENTS: Final[tuple[Ask, ...]] = (chat, complete, respond, message)
ERRORS: Final = (openai.APIError, anthropic.APIError, Refused)
