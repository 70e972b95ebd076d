"""Every kind of body that is parsed, and the function that parses each: a closed table.

A kind is a message, so that the process for large bodies can be asked by it; bodies of all sizes
go through the same table. [front]
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

import msgspec

from mlx_worker.api.dialects.base import Call
from mlx_worker.api.dialects.cache_warm import parse_to_warm
from mlx_worker.api.dialects.chat import request as chat
from mlx_worker.api.dialects.completions import request as completions
from mlx_worker.api.dialects.log_level import LevelBody, parse_level
from mlx_worker.api.dialects.messages import request as messages
from mlx_worker.api.dialects.packing import in_packs
from mlx_worker.api.dialects.responses import request as responses
from mlx_worker.api.dialects.tokenize import parse_to_detokenize, parse_to_tokenize
from mlx_worker.api.parsing.model_settings import call_with_settings, chat_with_settings
from mlx_worker.limits import check_amount, check_constraint, check_conversation, check_ends
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlx_worker.api.parsing.model_terms import ModelTerms
    from mlx_worker.config.schema import Defaults

T = TypeVar("T")
C = TypeVar("C", bound=Call)


class Ask(msgspec.Struct, Generic[T], frozen=True, tag=True, tag_field="ask"):
    """A base for the kinds of bodies; T is what parsing makes of one."""


class AskChat(Ask[Call], frozen=True):
    """The body of a chat completion."""


class AskCompletion(Ask[completions.CompletionCall], frozen=True):
    """The body of a completion."""


class AskResponse(Ask[responses.ResponsesCall], frozen=True):
    """The body of a response; `summaries` of reasoning are for all or for those who ask."""

    summaries: Literal["asked", "always"]


class AskMessage(Ask[Call], frozen=True):
    """The body of a message."""


class AskCount(Ask[tuple[str | None, ChatRequest]], frozen=True):
    """The body of a message whose tokens are counted."""


class AskTokenize(Ask[tuple[str | None, ChatRequest | None]], frozen=True):
    """A text whose tokens are told."""


class AskDetokenize(Ask[tuple[str | None, list[int]]], frozen=True):
    """Tokens whose text is told."""


class AskWarm(Ask[tuple[str | None, str]], frozen=True):
    """A system prompt that is to be resident."""


class AskLevel(Ask[LevelBody], frozen=True):
    """The log's level."""


AnyAsk = (
    AskChat
    | AskCompletion
    | AskResponse
    | AskMessage
    | AskCount
    | AskTokenize
    | AskDetokenize
    | AskWarm
    | AskLevel
)


def parse(ask: Ask[T], body: bytes, models: ModelTerms) -> T:
    """Return what parsing makes of a body, its bulky parts packed. Raises its refusal."""
    return cast("T", in_packs(_PARSERS[type(ask)](ask, body, models)))


def _chat(_ask: AskChat, body: bytes, models: ModelTerms) -> Call:
    return _settled(chat.parse(body, _defaults_of(models)), models)


def _completion(_ask: AskCompletion, body: bytes, models: ModelTerms) -> completions.CompletionCall:
    call = completions.parse(body, _defaults_of(models), lambda name: models.terms(name).places)
    return _settled(call, models)


def _response(ask: AskResponse, body: bytes, models: ModelTerms) -> responses.ResponsesCall:
    call = responses.parse(body, _defaults_of(models), summaries=ask.summaries)
    return _settled(call, models)


def _message(_ask: AskMessage, body: bytes, models: ModelTerms) -> Call:
    return _settled(messages.parse(body, _defaults_of(models)), models)


def _count(_ask: AskCount, body: bytes, models: ModelTerms) -> tuple[str | None, ChatRequest]:
    name, parsed = messages.parse_to_count(body)
    check_conversation(parsed, "messages")
    settled = chat_with_settings(parsed, models.terms(name).settings)
    check_amount(settled)
    return name, settled


def _defaults_of(models: ModelTerms) -> Callable[[str | None], Defaults]:
    return lambda name: models.terms(name).defaults


def _settled(call: C, models: ModelTerms) -> C:
    """Return a call with the settings of its model, checked as its model's process checks it."""
    check_conversation(call.chats[0], call.FIELDS.get("messages", "messages"))
    settled = call_with_settings(call, models.terms(call.model).settings)
    of_all = settled.chats[0]  # the chats of one call differ in their prompts alone
    check_amount(of_all)
    check_constraint(of_all)
    check_ends(of_all)
    return settled


_PARSERS: Final[Mapping[type[Ask[Any]], Callable[[Any, bytes, ModelTerms], Any]]] = (
    MappingProxyType(
        {
            AskChat: _chat,
            AskCompletion: _completion,
            AskResponse: _response,
            AskMessage: _message,
            AskCount: _count,
            AskTokenize: lambda _ask, body, _models: parse_to_tokenize(body),
            AskDetokenize: lambda _ask, body, _models: parse_to_detokenize(body),
            AskWarm: lambda _ask, body, _models: parse_to_warm(body),
            AskLevel: lambda _ask, body, _models: parse_level(body),
        }
    )
)
