"""The dialect of `POST /v1/completions`, as it is asked; `completions_reply` writes its answers.

Prompts are read as they stand: no template, no roles; what a model would mark as reasoning or a
call is text here. Source: OpenAI's API reference, completions (legacy). [front]
"""

from __future__ import annotations

import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Self

import msgspec
from msgspec.structs import replace

from mlx_worker.api.dialects.base import Call, Places, decode
from mlx_worker.api.dialects.chat.request import ResponseFormat, StreamOptions, response_shape
from mlx_worker.api.dialects.fields import (
    Alternatives,
    ModelName,
    Samplers,
    Stop,
    answer_tokens,
    ends_of,
    no_defaults,
    refuse_unsupported,
    sampling,
    scoring_of,
    seed_of,
    stop_words,
)
from mlx_worker.api.dialects.foreign_fields import refuse_foreign
from mlx_worker.api.dialects.packing import packed, packed_chat
from mlx_worker.api.dialects.structured_output import constraint_of
from mlx_worker.config.sampler_types import TokenId
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.config.schema import Defaults

MAX_TOKENS = 16
"""OpenAI's own default here, where neither the request nor the model has one."""

Prompt = str | list[int]
"""Text, or token ids."""


class CompletionBody(Samplers, frozen=True, kw_only=True):
    """The fields that this node knows."""

    prompt: (
        str
        | Annotated[
            list[str | TokenId | list[TokenId]], msgspec.Meta(min_length=1, max_length=1_000_000)
        ]
    )
    model: ModelName | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    best_of: int | None = None
    stop: Stop | None = None
    logprobs: Alternatives | None = None
    prompt_logprobs: Alternatives | None = None
    echo: bool | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None


class CompletionCall(Call, frozen=True, kw_only=True):
    """A call of one prompt or several. `echoed` are those that each answer begins with."""

    FIELDS = MappingProxyType({"messages": "prompt"})

    echoed: list[Prompt]

    def packed(self) -> Self:
        """Return the same call with its bulky parts packed, what all prompts share only once."""
        shared = packed_chat(self.chats[0])
        return replace(
            self,
            chats=[replace(shared, prompt=packed(chat.prompt)) for chat in self.chats],
            echoed=[it if isinstance(it, str) else packed(it) for it in self.echoed],
        )


def unlimited(_model: str | None) -> Places:
    """As many as anybody likes."""
    return Places("", sys.maxsize)


def parse(
    body: bytes,
    defaults_of: Callable[[str | None], Defaults] = no_defaults,
    places_of: Callable[[str | None], Places] = unlimited,
) -> CompletionCall:
    """A request body as a call. Raises InvalidRequest, which names the field.

    The choices are counted before anything is made for one of them.
    """
    asked = decode(body, CompletionBody)
    refuse_foreign(body, "completions", CompletionBody)
    defaults = defaults_of(asked.model)
    n = asked.n or 1
    places_of(asked.model).check(n * _count(asked), "n" if n > 1 else "prompt")
    prompts = _prompts(asked)
    _refuse(asked)
    seed = seed_of(asked, defaults)
    shared = ChatRequest(
        messages=[],
        sampling=sampling(asked, defaults, seed),
        max_tokens=answer_tokens(asked.max_tokens, defaults.max_tokens, MAX_TOKENS),
        stop=stop_words(asked.stop),
        logprobs=asked.logprobs,
        constraint=constraint_of(asked, None, response_shape(asked.response_format)),
        ends=ends_of(asked),
        prompt_scoring=scoring_of(
            asked.prompt_logprobs,
            asked.logprobs if asked.echo else None,
            stream=bool(asked.stream),
        ),
    )
    chats = [replace(shared, prompt=prompt) for prompt in prompts]
    return CompletionCall(
        model=asked.model,
        chats=chats,
        seed=seed,
        n=n,
        stream=bool(asked.stream),
        include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        echoed=prompts if asked.echo else [],
    )


def _refuse(asked: CompletionBody) -> None:
    refuse_unsupported(
        {
            "suffix": bool(asked.suffix),
            "best_of": asked.best_of not in (None, asked.n or 1),
            "chat_template_kwargs": bool(asked.chat_template_kwargs),
            "enable_thinking": asked.enable_thinking is not None,
        }
    )


def _count(asked: CompletionBody) -> int:
    """Return the number of prompts; a list of mixed kinds is refused later."""
    if isinstance(asked.prompt, str) or isinstance(asked.prompt[0], int):
        return 1
    return len(asked.prompt)


def _prompts(asked: CompletionBody) -> list[Prompt]:
    """One or several. Raises InvalidRequest where texts, tokens and lists of them are mixed."""
    if isinstance(asked.prompt, str):
        return [asked.prompt]
    tokens = [it for it in asked.prompt if isinstance(it, int)]
    if len(tokens) == len(asked.prompt):
        return [tokens]
    several: list[Prompt] = [it for it in asked.prompt if not isinstance(it, int)]
    if len(several) < len(asked.prompt) or len({type(it) for it in several}) > 1:
        raise InvalidRequest(
            "prompt: texts, tokens and lists of tokens cannot be mixed", param="prompt"
        )
    return several
