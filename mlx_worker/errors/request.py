"""Errors of a request: what the client sent cannot be answered.

The HTTP status is 4xx, and `param` names the field where there is one. [both]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.errors.base import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterable


class InvalidRequest(WorkerError):
    """A request with an invalid value; `param` names the field."""

    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"


class MissingField(InvalidRequest):
    """A required field is missing."""

    status = 422
    code = "missing_field"


class UnsupportedField(InvalidRequest):
    """A known field that this node does not support; refused rather than ignored."""

    code = "unsupported_field"


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for an answer in the model's context.

    `tokens` is the length of the prompt, `context` that of the model's context; 0 if unknown.
    Clients recognize the sentence by its beginning, and read the numbers in it.
    """

    code = "context_length_exceeded"
    tokens = 0
    context = 0

    @classmethod
    def of(
        cls, tokens: int, context: int, param: str, *, estimated: bool = False
    ) -> ContextLengthExceeded:
        """Return the error for a field whose text has this number of tokens, exact or estimated."""
        what = param.replace("_", " ")
        full = ", which leaves no room for an answer" if tokens == context else ""
        error = cls(
            f"This model's maximum context length is {context} tokens. However, your {what}"
            f" resulted in {'about ' if estimated else ''}{tokens} tokens{full}."
            f" Please reduce the length of the {what}.",
            param=param,
        )
        error.tokens, error.context = tokens, context
        return error

    @property
    def for_anthropic(self) -> str:
        """Return the sentence that clients of the Messages dialect recognize."""
        if not self.context:
            return self.message
        most = min(self.context, self.tokens - 1)
        return f"prompt is too long: {self.tokens} tokens > {most} maximum"


class ConstraintFailed(InvalidRequest):
    """A grammar or schema that failed during generation, as by a step that takes too much work."""

    code = "constraint_failed"


class ConstraintTooCostly(InvalidRequest):
    """A schema, grammar or regex that takes more work than one request may use."""

    code = "constraint_too_costly"


class KvTooLarge(InvalidRequest):
    """Prompt and answer need more memory than this node has for the model's KV."""

    code = "kv_too_large"


class BodyTooLarge(InvalidRequest):
    """A body larger than `max_body_bytes`."""

    status = 413
    code = "body_too_large"


class BodyTooSlow(InvalidRequest):
    """A body that arrives more slowly than `body_timeout` allows."""

    status = 408
    code = "body_too_slow"


class UnsupportedEncoding(InvalidRequest):
    """A body with a content encoding that this node does not read."""

    status = 415
    code = "unsupported_encoding"


class Unauthorized(WorkerError):
    """A request without an API key, or with an unknown one."""

    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"
    exit_code = 77
    resend = False


class CrossOriginRequest(InvalidRequest):
    """A request to change something, sent by a browser for a page of another origin."""

    status = 403
    code = "cross_site"


class UnknownHost(InvalidRequest):
    """A browser's request to a host name that is not known as this node's; the node has no keys."""

    status = 421
    code = "unknown_host"


class RequestNotFound(InvalidRequest):
    """An id of no request that runs or waits."""

    status = 404
    code = "request_not_found"
    exit_code = 66


class IdempotencyKeyReused(InvalidRequest):
    """An `Idempotency-Key` that was sent with another body, or to another path, before."""

    status = 422
    code = "idempotency_key_reused"


class CannotJoin(InvalidRequest):
    """A repetition of a request whose response is too large to be kept."""

    status = 409
    code = "cannot_join"
    resend = False


class ResponseNotFound(InvalidRequest):
    """An id of no response that is kept for this API key."""

    status = 404
    code = "response_not_found"


class UnknownModel(InvalidRequest):
    """A name of no model or alias, on a node without a default model."""

    status = 404
    code = "model_not_found"
    exit_code = 66

    @classmethod
    def among(cls, ids: Iterable[str], name: str) -> UnknownModel:
        """Return the error for a name that is not among these models."""
        known = ", ".join(ids)
        return cls(f"no model is named {name!r}; this node has: {known}", param="model")
