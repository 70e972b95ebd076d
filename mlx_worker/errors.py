"""The error family: what happened, and how each border says it.

An error knows its HTTP status, the code and type an OpenAI-shaped body carries, how long a
caller should wait before it tries again, and the exit code a command ends with. Borders (the
HTTP dialects, the CLI, the pipe) translate these; nobody else invents a status. [both]
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class WorkerError(Exception):
    """What failed without a better name; the root of those that have one.

    An error's class says what happened, its message the numbers.
    `status` is an HTTP status, `retry_after` is in seconds (None: trying again will not help),
    `exit_code` follows sysexits.h. `resend`: may a client library send the same again by itself?
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    kind: ClassVar[str] = "server_error"
    exit_code: ClassVar[int] = 1
    resend: ClassVar[bool] = True

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


# --- the caller's fault -------------------------------------------------------------------


class InvalidRequest(WorkerError):
    """A request that could not mean anything; `param` names the field."""

    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"


class MissingField(InvalidRequest):
    """A field without which there is nothing to do."""

    status = 422
    code = "missing_field"


class UnsupportedField(InvalidRequest):
    """A known field that this node cannot honour: refused rather than ignored."""

    code = "unsupported_field"


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for an answer in the model's context.

    `tokens` are the prompt's, `context` the model's; 0 where the numbers are not known. Clients
    recognize the sentence by its beginning, and read the numbers in it.
    """

    code = "context_length_exceeded"
    tokens = 0
    context = 0

    @classmethod
    def of(
        cls, tokens: int, context: int, param: str, *, estimated: bool = False
    ) -> ContextLengthExceeded:
        """Return the error for a field whose text has that many tokens, or about as many."""
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
        """The sentence that clients of the Messages dialect recognize."""
        if not self.context:
            return self.message
        most = min(self.context, self.tokens - 1)
        return f"prompt is too long: {self.tokens} tokens > {most} maximum"


class ConstraintFailed(InvalidRequest):
    """A grammar or schema that could not be followed on, as where a step takes too much work."""

    code = "constraint_failed"


class ConstraintTooCostly(InvalidRequest):
    """A schema, grammar or regex that would take more work than one request may have."""

    code = "constraint_too_costly"


class KvTooLarge(InvalidRequest):
    """Prompt and answer would take more memory than this node has for a model's KV."""

    code = "kv_too_large"


class BodyTooLarge(InvalidRequest):
    """More bytes than `max_body_bytes`."""

    status = 413
    code = "body_too_large"


class BodyTooSlow(InvalidRequest):
    """A body that came at less than a crawl."""

    status = 408
    code = "body_too_slow"


class UnsupportedEncoding(InvalidRequest):
    """A body that is compressed in a way that this node does not read."""

    status = 415
    code = "unsupported_encoding"


class Unauthorized(WorkerError):
    """No API key, or none that this node knows."""

    status = 401
    code = "invalid_api_key"
    kind = "authentication_error"
    exit_code = 77
    resend = False


class CrossSite(InvalidRequest):
    """A browser asks to change something, for a page of another site."""

    status = 403
    code = "cross_site"


class UnknownHost(InvalidRequest):
    """A browser came by a name that this node, which has no keys, does not know as its own."""

    status = 421
    code = "unknown_host"


class UnknownModel(InvalidRequest):
    """A name that no configured model or alias has, on a node without a default."""

    status = 404
    code = "model_not_found"
    exit_code = 66

    @classmethod
    def among(cls, ids: Iterable[str], name: str) -> UnknownModel:
        """Return the error for a name that none of these models has."""
        known = ", ".join(ids)
        return cls(f"no model is named {name!r}; this node has: {known}", param="model")


# --- the node's state ---------------------------------------------------------------------


class Unavailable(WorkerError):
    """Right now the node cannot take this; later it can."""

    status = 503
    code = "unavailable"


class ModelLoading(Unavailable):
    """The model's child is starting, loading or coming back."""

    code = "model_loading"


class ModelFailed(Unavailable):
    """The model was given up; `retry_after` is when the node tries again."""

    code = "model_failed"


class MemoryFull(Unavailable):
    """It would not fit in memory now, beside what is there."""

    code = "memory_full"


class ModelTooLarge(Unavailable):
    """The model would not fit in memory if it were alone."""

    code = "model_too_large"
    resend = False


class ModelBusy(WorkerError):
    """The model is at work and cannot be taken from those it works for."""

    status = 409
    code = "model_busy"
    kind = "invalid_request_error"
    exit_code = 75


class NodeDraining(Unavailable):
    """The node is going away and takes no new work."""

    code = "node_draining"


class TooManyConnections(Unavailable):
    """More connections than `max_connections` are at work."""

    code = "too_many_connections"


class QueueFull(WorkerError):
    """More requests wait for this model than `max_queue` allows."""

    status = 429
    code = "queue_full"
    kind = "rate_limit_error"


class ChildLost(WorkerError):
    """The child died with this request in its hands, and no other took it over in time.

    Not `Unavailable`: something was tried, and it failed.
    """

    status = 503
    code = "child_lost"


class PoisonedRequest(WorkerError):
    """The child died again and again with this request in its hands: it is not tried once more."""

    code = "poisoned_request"
    resend = False


class WeightsChanged(WorkerError):
    """The answer was begun by other weights or versions than those of the process that runs now.

    Its rest would be another model's words. The caller decides whether to ask again.
    """

    code = "weights_changed"
    resend = False


class RequestTimedOut(WorkerError):
    """The request was not done within the model's `request_timeout`."""

    status = 504
    code = "request_timeout"
    resend = False


class ChildMisbehaved(WorkerError):
    """Bytes on the pipe that are no message of ours."""

    code = "child_misbehaved"


# --- the Python modules -------------------------------------------------------------------


class InferenceError(WorkerError):
    """Loading or generating failed; the message carries the cause."""

    code = "inference_error"


class ModelNotFoundError(InferenceError):
    """There is no model at that path."""

    code = "model_not_found"
    exit_code = 66


class InvalidSetting(InvalidRequest, ValueError):
    """A setting of a Python call outside the limits that a request over HTTP has."""

    code = "invalid_setting"


class CacheError(WorkerError):
    """A prompt could not be prefilled into the KV cache."""

    code = "cache_error"


class HealthError(WorkerError, ValueError):
    """A figure that no request can have, such as a negative latency."""

    code = "health_error"


# --- commands -----------------------------------------------------------------------------


class ConfigError(WorkerError):
    """The configuration file says something that cannot be done."""

    code = "config_error"
    exit_code = 78


class NothingServed(WorkerError):
    """No model could be served for `exit_when_failed_for`: a new process may fare better."""

    code = "nothing_served"
    exit_code = 70


class PortTaken(WorkerError):
    """The address to listen on is somebody else's, or not ours to take."""

    code = "port_taken"
    exit_code = 69


class NodeUnreachable(WorkerError):
    """Nothing that speaks like a node answers there."""

    code = "node_unreachable"
    exit_code = 69


class BadModelFolder(WorkerError):
    """A model folder with something missing or broken in it."""

    code = "bad_model_folder"
    exit_code = 65


class UnservableModel(WorkerError):
    """A model that loads but that this engine cannot run."""

    code = "unservable_model"
    exit_code = 65


class SourceUnavailable(WorkerError):
    """A model's source could not be reached or does not have it."""

    code = "source_unavailable"
    exit_code = 69


class BrokenDownload(WorkerError):
    """What arrived is not what was asked for: wrong size, wrong checksum, not an archive."""

    code = "broken_download"
    exit_code = 65


class CannotStore(WorkerError):
    """The disk refused: full, read-only or not permitted."""

    code = "cannot_store"
    exit_code = 73


class CannotServe(WorkerError):
    """The system's service manager refused, or this system has none that we know."""

    code = "cannot_serve"
    exit_code = 71


class NotMeasured(WorkerError):
    """What was to be measured did not start, or did not answer."""

    code = "not_measured"
    exit_code = 69


def cause_of(error: BaseException) -> str:
    """Somebody else's error in one line: its type, and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


# --- by code ------------------------------------------------------------------------------


def error_class(code: str) -> type[WorkerError]:
    """Return the class of this module with this code; WorkerError for an unknown code.

    Processes of one node name their errors by their codes. The classes themselves are the
    registry, so that a new class is known to the front as soon as another process can raise it.
    """
    return _classes().get(code, WorkerError)


@cache
def _classes() -> dict[str, type[WorkerError]]:
    classes: dict[str, type[WorkerError]] = {}
    for kind in _family(WorkerError):
        if kind.__module__ == __name__:
            # Of two classes with one code the first is the one that a request meets.
            classes.setdefault(kind.code, kind)
    return classes


def _family(kind: type[WorkerError]) -> Iterator[type[WorkerError]]:
    """Yield a class and all classes below it, in the order of their definition."""
    yield kind
    for below in kind.__subclasses__():
        yield from _family(below)


CHILD_CODES: Final = frozenset(
    kind.code
    for kind in (
        WorkerError,
        InvalidRequest,
        UnsupportedField,
        ContextLengthExceeded,
        ConstraintFailed,
        ConstraintTooCostly,
        KvTooLarge,
        Unavailable,
        InferenceError,
        CacheError,
    )
)
"""Codes that a child may send about a request. The others are for the front to decide: a child
cannot declare its own loss."""
