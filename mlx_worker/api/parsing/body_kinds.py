"""Every kind of body that is parsed, and the function that parses each: a closed table.

A kind is a message to the process that parses large bodies; bodies of all sizes go through the
same table.

[front]
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import msgspec
from msgspec.structs import replace

from mlx_worker.api.dialects.base import DialectName, GenerationRequest
from mlx_worker.api.dialects.messages.request import parse_count_body
from mlx_worker.api.dialects.native.cache_warm import parse_warm_body
from mlx_worker.api.dialects.native.log_level import LogLevelRequest, parse_log_level_body
from mlx_worker.api.dialects.native.tokenize import parse_detokenize_body, parse_tokenize_body
from mlx_worker.api.dialects.packing import pack_chat, pack_value
from mlx_worker.api.dialects.registry import DIALECTS
from mlx_worker.api.dialects.session_fields import body_session
from mlx_worker.api.dialects.system_lines import without_head_lines
from mlx_worker.limits import check_amount, check_constraint, check_conversation, check_ends
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlx_worker.api.dialects.base import Dialect
    from mlx_worker.api.parsing.model_table import ModelLookup

T = TypeVar("T")
R = TypeVar("R", bound=GenerationRequest)


class BodyKind(msgspec.Struct, Generic[T], frozen=True, tag=True, tag_field="kind"):
    """A base for the kinds of bodies; T is the result of parsing one."""


class GenerationBody(BodyKind[GenerationRequest], frozen=True):
    """The body of a generation in a dialect."""

    dialect: DialectName


class CountBody(BodyKind[tuple[str | None, ChatRequest]], frozen=True):
    """The body of a message whose tokens are counted."""


class TextToTokenize(BodyKind[tuple[str | None, ChatRequest | None]], frozen=True):
    """The body of a text or of messages to tokenize."""


class TokensToDetokenize(BodyKind[tuple[str | None, list[int]]], frozen=True):
    """The body of token ids to detokenize."""


class PromptToWarm(BodyKind[tuple[str | None, str]], frozen=True):
    """The body of a system prompt that is to be resident."""


class LogLevelBody(BodyKind[LogLevelRequest], frozen=True):
    """The body of a log level."""


AnyBodyKind = (
    GenerationBody | CountBody | TextToTokenize | TokensToDetokenize | PromptToWarm | LogLevelBody
)


def generation_body(dialect: Dialect[R]) -> BodyKind[R]:
    """Return the kind of a generation's body in this dialect."""
    return cast("BodyKind[R]", GenerationBody(dialect.name))


def parse(kind: BodyKind[T], data: bytes, models: ModelLookup) -> T:
    """Return the result of parsing a body, its bulky parts packed. Raises the body's refusal."""
    return cast("T", _PARSERS[type(kind)](kind, data, models))


def _parse_generation(kind: GenerationBody, data: bytes, models: ModelLookup) -> GenerationRequest:
    """Return a request with the settings of its model, checked as its model's process checks it."""
    dialect = DIALECTS[kind.dialect]
    request: GenerationRequest = dialect.parse(data, models.terms)
    check_conversation(request.chats[0], dialect.field_names.get("messages", "messages"))
    settings = models.terms(request.model).settings
    applied = [settings.apply_to(chat) for chat in request.chats]
    request = replace(
        request,
        chats=[chat for chat, _ in applied],
        session=body_session(data),
        dropped_lines=applied[0][1],
    )
    first = request.chats[0]  # the chats of one request differ in their prompts alone
    check_amount(first)
    check_constraint(first)
    check_ends(first)
    return request.packed()


def _parse_count(
    _kind: CountBody, data: bytes, models: ModelLookup
) -> tuple[str | None, ChatRequest]:
    name, chat = parse_count_body(data)
    return name, pack_chat(_as_the_model_reads(chat, name, models))


def _as_the_model_reads(chat: ChatRequest, name: str | None, models: ModelLookup) -> ChatRequest:
    """Return a conversation with the settings of its model. Raises its refusal."""
    check_conversation(chat, "messages")
    chat, _ = models.terms(name).settings.apply_to(chat)
    check_amount(chat)
    return chat


def _parse_text_to_tokenize(
    _kind: TextToTokenize, data: bytes, models: ModelLookup
) -> tuple[str | None, ChatRequest | None]:
    name, chat = parse_tokenize_body(data, models.terms)
    if chat is None:
        return name, None
    return name, pack_chat(_as_the_model_reads(chat, name, models) if chat.messages else chat)


def _parse_tokens_to_detokenize(
    _kind: TokensToDetokenize, data: bytes, _models: ModelLookup
) -> tuple[str | None, msgspec.Raw]:
    name, tokens = parse_detokenize_body(data)
    return name, pack_value(tokens)


def _parse_prompt_to_warm(
    _kind: PromptToWarm, data: bytes, models: ModelLookup
) -> tuple[str | None, str]:
    """Return the prompt as requests will have it."""
    name, prompt = parse_warm_body(data)
    return name, without_head_lines(prompt, models.terms(name).settings.drop_system_lines)


_PARSERS: Final[Mapping[type[BodyKind[Any]], Callable[[Any, bytes, ModelLookup], Any]]] = (
    MappingProxyType(
        {
            GenerationBody: _parse_generation,
            CountBody: _parse_count,
            TextToTokenize: _parse_text_to_tokenize,
            TokensToDetokenize: _parse_tokens_to_detokenize,
            PromptToWarm: _parse_prompt_to_warm,
            LogLevelBody: lambda _kind, data, _models: parse_log_level_body(data),
        }
    )
)
