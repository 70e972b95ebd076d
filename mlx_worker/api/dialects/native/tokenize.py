"""The bodies of `POST /tokenize` and `POST /detokenize`.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from mlx_worker.api.dialects.chat.request import ChatMessages
from mlx_worker.api.dialects.chat.request import parse as parse_chat
from mlx_worker.api.dialects.decoding import decode_body
from mlx_worker.api.dialects.fields import ModelName, refuse_unsupported
from mlx_worker.config.sampler_types import TokenId
from mlx_worker.errors import InvalidRequest, MissingField
from mlx_worker.wire.request import ChatRequest, Sampling

if TYPE_CHECKING:
    from mlx_worker.api.dialects.model_terms import TermsLookup

MAX_TEXT = 4_000_000
"""Characters of a text: the response lists its tokens one by one."""
MAX_TOKENS = 1_000_000
"""Token ids of a text."""


class TokenizeRequest(msgspec.Struct, frozen=True):
    """A text, tokenized as the prompt of a completion, or the messages of a chat.

    Messages are read as a chat completion's, with the fields that change its prompt.
    """

    prompt: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)] | None = None
    messages: ChatMessages | None = None
    model: ModelName | None = None
    add_special_tokens: bool | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


class DetokenizeRequest(msgspec.Struct, frozen=True):
    """Token ids."""

    tokens: Annotated[list[TokenId], msgspec.Meta(max_length=MAX_TOKENS)]
    model: ModelName | None = None


def parse_tokenize_body(
    data: bytes, terms_of: TermsLookup
) -> tuple[str | None, ChatRequest | None]:
    """Return the model's name and a request with the text or messages; None if the text is empty.

    Raises InvalidRequest, which names the field.
    """
    body = decode_body(data, TokenizeRequest)
    if body.messages is not None:
        if body.prompt is not None:
            raise InvalidRequest("prompt: cannot be given beside messages", param="prompt")
        refuse_unsupported({"add_special_tokens": bool(body.add_special_tokens)})
        return body.model, parse_chat(data, terms_of).chats[0]
    if body.prompt is None:
        raise MissingField("prompt (or messages): is required", param="prompt")
    refuse_unsupported({"add_special_tokens": body.add_special_tokens is False})
    if not body.prompt:
        return body.model, None
    return body.model, ChatRequest([], Sampling(seed=0), prompt=body.prompt)


def parse_detokenize_body(data: bytes) -> tuple[str | None, list[int]]:
    """Return the model's name and the tokens. Raises InvalidRequest, which names the field."""
    body = decode_body(data, DetokenizeRequest)
    return body.model, body.tokens
