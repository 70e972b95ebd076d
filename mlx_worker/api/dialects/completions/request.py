"""Parse the bodies of `POST /v1/completions`; `response` writes the answers.

Prompts are read as they stand: no template, no roles. What a model would mark as reasoning or a
call is text here. Source: OpenAI's API reference, completions (legacy).

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec.structs import replace

from mlx_worker.api.dialects.base import GenerationRequest
from mlx_worker.api.dialects.chat.request import (
    ResponseFormat,
    StreamOptions,
    parse_response_format,
)
from mlx_worker.api.dialects.decoding import decode_body
from mlx_worker.api.dialects.fields import (
    AlternativeCount,
    CommonFields,
    ModelName,
    StopStrings,
    refuse_unsupported,
    resolve_ends,
    resolve_max_tokens,
    resolve_prompt_scoring,
    resolve_sampling,
    resolve_seed,
    resolve_stop_strings,
)
from mlx_worker.api.dialects.foreign_fields import refuse_foreign
from mlx_worker.api.dialects.model_terms import TermsLookup, default_terms
from mlx_worker.api.dialects.reasoning_limit import NO_LIMIT, given_budgets
from mlx_worker.api.dialects.structured_output import resolve_constraint
from mlx_worker.config.sampler_types import TokenId
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from mlx_worker.api.dialects.base import Prompt

MAX_TOKENS = 16
"""OpenAI's own default here, if neither the request nor the model has one."""


class CompletionRequest(CommonFields, frozen=True, kw_only=True):
    """The body of a completion: the fields that this node knows."""

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
    stop: StopStrings | None = None
    logprobs: AlternativeCount | None = None
    prompt_logprobs: AlternativeCount | None = None
    echo: bool | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None


def parse(data: bytes, terms_of: TermsLookup = default_terms) -> GenerationRequest:
    """Return the request of a body. Raises InvalidRequest, which names the field.

    The choices are counted before anything is built for one of them.
    """
    body = decode_body(data, CompletionRequest)
    refuse_foreign(data, "completions", CompletionRequest)
    terms = terms_of(body.model)
    n = body.n or 1
    terms.capacity.check_choices(n * _count_prompts(body), "n" if n > 1 else "prompt")
    prompts = _list_prompts(body)
    _refuse_unsupported(body)
    seed = resolve_seed(body, terms.defaults)
    shared = ChatRequest(
        messages=[],
        sampling=resolve_sampling(body, terms.defaults, seed),
        max_tokens=resolve_max_tokens(body.max_tokens, terms.defaults.max_tokens, MAX_TOKENS),
        stop=resolve_stop_strings(body.stop),
        logprobs=body.logprobs,
        constraint=resolve_constraint(body, None, parse_response_format(body.response_format)),
        ends=resolve_ends(body),
        prompt_scoring=resolve_prompt_scoring(
            body.prompt_logprobs,
            body.logprobs if body.echo else None,
            stream=bool(body.stream),
        ),
    )
    return GenerationRequest(
        model=body.model,
        chats=[replace(shared, prompt=prompt) for prompt in prompts],
        seed=seed,
        n=n,
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        echoed=prompts if body.echo else [],
    )


def _refuse_unsupported(body: CompletionRequest) -> None:
    refuse_unsupported(
        {
            "suffix": bool(body.suffix),
            "best_of": body.best_of not in (None, body.n or 1),
            "chat_template_kwargs": bool(body.chat_template_kwargs),
            "enable_thinking": body.enable_thinking is not None,
            **{name: budget != NO_LIMIT for name, budget in given_budgets(body).items()},
        }
    )


def _count_prompts(body: CompletionRequest) -> int:
    """Return the number of prompts; a list of mixed kinds is refused later."""
    if isinstance(body.prompt, str) or isinstance(body.prompt[0], int):
        return 1
    return len(body.prompt)


def _list_prompts(body: CompletionRequest) -> list[Prompt]:
    """Return one prompt or several. Raises InvalidRequest if texts and token ids are mixed."""
    if isinstance(body.prompt, str):
        return [body.prompt]
    tokens = [item for item in body.prompt if isinstance(item, int)]
    if len(tokens) == len(body.prompt):
        return [tokens]
    prompts: list[Prompt] = [item for item in body.prompt if not isinstance(item, int)]
    if len(prompts) < len(body.prompt) or len({type(prompt) for prompt in prompts}) > 1:
        raise InvalidRequest(
            "prompt: texts, tokens and lists of tokens cannot be mixed", param="prompt"
        )
    return prompts
