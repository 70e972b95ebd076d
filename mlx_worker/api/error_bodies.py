"""An error in the words of a dialect: OpenAI's, and Anthropic's. [front]"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

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


def openai_error(error: WorkerError) -> bytes:
    """The body that OpenAI's client libraries read."""
    return msgspec.json.encode(
        {
            "error": {
                "message": error.message,
                "type": error.kind,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def anthropic_error(error: WorkerError) -> bytes:
    """The body that Anthropic's client libraries read."""
    ours = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    other = "api_error" if ours else "invalid_request_error"
    kind = _ANTHROPIC.get(error.status, other)
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": error.message}})
