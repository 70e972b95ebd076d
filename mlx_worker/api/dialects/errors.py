"""Format errors as OpenAI's and Anthropic's error bodies.

[front]
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from mlx_worker.errors import ContextLengthExceeded, IdempotencyKeyReused, MissingField
from mlx_worker.json_output import encode

if TYPE_CHECKING:
    from mlx_worker.errors import WorkerError

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Types by status. Other 4xx are `invalid_request_error`, other 5xx `api_error`."""


class OpenAIErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong: a sentence, its type, the field, and a code for programs."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(msgspec.Struct, frozen=True):
    """The body that OpenAI's client libraries read."""

    error: OpenAIErrorDetail


class AnthropicErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong: its type, and a sentence."""

    type: str
    message: str


class AnthropicError(msgspec.Struct, frozen=True, tag="error"):
    """The body that Anthropic's client libraries read."""

    error: AnthropicErrorDetail


def openai_error(error: WorkerError) -> bytes:
    """Return the error body that OpenAI's client libraries read."""
    problem = OpenAIErrorDetail(error.message, error.kind, error.param, error.code)
    return encode(OpenAIError(problem))


def anthropic_error(error: WorkerError) -> bytes:
    """Return the error body that Anthropic's client libraries read."""
    is_server_error = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    other = "api_error" if is_server_error else "invalid_request_error"
    kind = _ANTHROPIC_TYPES.get(error.status, other)
    message = error.message
    if isinstance(error, ContextLengthExceeded):
        message = error.for_anthropic
    return encode(AnthropicError(AnthropicErrorDetail(kind, message)))


def anthropic_status(kind: type[WorkerError]) -> int:
    """Return the status of an error for Anthropic's clients: Anthropic has no 422."""
    has_422 = issubclass(kind, MissingField | IdempotencyKeyReused)
    return HTTPStatus.BAD_REQUEST if has_422 else kind.status
