"""An error in the words of a dialect: OpenAI's, and Anthropic's. [front]"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from mlx_worker.errors import ContextLengthExceeded, MissingField
from mlx_worker.json_output import encode

if TYPE_CHECKING:
    from mlx_worker.errors import WorkerError

_ANTHROPIC = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Its other 4xx are `invalid_request_error`, its other 5xx `api_error`."""


class OpenAIProblem(msgspec.Struct, frozen=True):
    """What went wrong: in a sentence, by kind, with which field, as a word for programs."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(msgspec.Struct, frozen=True):
    """The body that OpenAI's client libraries read."""

    error: OpenAIProblem


class AnthropicProblem(msgspec.Struct, frozen=True):
    """What went wrong: by kind, in a sentence."""

    type: str
    message: str


class AnthropicError(msgspec.Struct, frozen=True, tag="error"):
    """The body that Anthropic's client libraries read."""

    error: AnthropicProblem


def openai_error(error: WorkerError) -> bytes:
    """The body that OpenAI's client libraries read."""
    problem = OpenAIProblem(error.message, error.kind, error.param, error.code)
    return encode(OpenAIError(problem))


def anthropic_error(error: WorkerError) -> bytes:
    """The body that Anthropic's client libraries read."""
    ours = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    other = "api_error" if ours else "invalid_request_error"
    kind = _ANTHROPIC.get(error.status, other)
    message = error.message
    if isinstance(error, ContextLengthExceeded):
        message = error.for_anthropic
    return encode(AnthropicError(AnthropicProblem(kind, message)))


def anthropic_status(kind: type[WorkerError]) -> int:
    """An error's status there: Anthropic has no 422."""
    return HTTPStatus.BAD_REQUEST if issubclass(kind, MissingField) else kind.status
