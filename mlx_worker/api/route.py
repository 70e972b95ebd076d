"""Describe an endpoint: its path, who may use it, its bodies, its responses and its errors.

[front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlx_worker import errors

if TYPE_CHECKING:
    import msgspec
    from aiohttp.typedefs import Handler

Errors = tuple[type[errors.WorkerError], ...]


@dataclass(frozen=True, slots=True)
class JsonKeys:
    """The keys that a JSON object without a type always has."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: str) -> JsonKeys:
        """Return the keys of a string of names with blanks between them."""
        return cls(tuple(names.split()))


@dataclass(frozen=True, slots=True)
class Text:
    """A response that is not JSON, of one of these media types."""

    media: tuple[str, ...]


EVENTS = Text(("text/event-stream",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An endpoint. `path` follows any run of /v1, and `summary` says what the endpoint does.

    `access` says which requests need no API key where the node has keys: all of them ("public"),
    those from a trusted address ("trusted"), or none ("key"). Responses with one of `statuses` have
    the type `answer`; `anthropic` is the type for Anthropic's clients where `answer` is OpenAI's.
    With `streams`, a body may ask for events instead. `query` are the names of query parameters.
    `errors` are the endpoint's own, beside those of any request and of any body.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    access: Literal["key", "trusted", "public"] = "key"
    answer: type[msgspec.Struct] | JsonKeys | Text
    statuses: tuple[int, ...] = (200,)
    body: type[msgspec.Struct] | None = None
    streams: bool = False
    anthropic: type[msgspec.Struct] | None = None
    query: tuple[str, ...] = ()
    errors: Errors = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the methods of this endpoint: HEAD is wherever GET is."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def all_errors(self) -> Errors:
        """Return every error that this endpoint may answer with."""
        return ANY_REQUEST + (ANY_BODY if self.body else ()) + self.errors


# --- groups of errors ---------------------------------------------------------------------

ANY_REQUEST: Errors = (
    errors.InvalidRequest,
    errors.WorkerError,
    errors.CrossOriginRequest,
    errors.UnknownHost,
    errors.Unauthorized,
)

ANY_BODY: Errors = (
    errors.MissingField,
    errors.UnsupportedField,
    errors.BodyTooLarge,
    errors.BodyTooSlow,
    errors.UnsupportedEncoding,
    errors.Unavailable,
)
"""Errors of any body; a large one is a 503 if the process that parses large bodies ends."""

MODEL_UNAVAILABLE: Errors = (
    errors.ModelLoading,
    errors.ModelFailed,
    errors.MemoryFull,
    errors.ModelTooLarge,
    errors.NodeDraining,
)
"""Reasons why a model cannot take a request."""

ANY_MODEL_REQUEST: Errors = (errors.UnknownModel, *MODEL_UNAVAILABLE, errors.ChildLost)
"""Errors of any request to a model."""

PROMPT_ONLY: Errors = (*ANY_MODEL_REQUEST, errors.ContextLengthExceeded)
"""Errors of a request whose text is only read."""

GENERATION: Errors = (
    *ANY_MODEL_REQUEST,
    errors.ContextLengthExceeded,
    errors.KvTooLarge,
    errors.QueueFull,
    errors.RequestTimedOut,
    errors.RequestCancelled,
    errors.PoisonedRequest,
    errors.WeightsChanged,
    errors.InferenceError,
    errors.IdempotencyKeyReused,
    errors.CannotJoin,
    errors.ConstraintFailed,
    errors.ConstraintTooCostly,
)
"""Errors of a generation. `Unavailable`, as of any body, is also that of a costly grammar."""
