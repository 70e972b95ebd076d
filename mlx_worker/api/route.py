"""What an endpoint is: its place, what it takes and answers, what may go wrong there. [front]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_worker import errors

if TYPE_CHECKING:
    import msgspec
    from aiohttp.typedefs import Handler

Errors = tuple[type[errors.WorkerError], ...]


@dataclass(frozen=True, slots=True)
class JsonKeys:
    """A JSON object that is no type here: the keys that it always has."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: str) -> JsonKeys:
        """Of names with blanks between them."""
        return cls(tuple(names.split()))


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that is no JSON: of one of these media types."""

    media: tuple[str, ...]


EVENTS = Text(("text/event-stream",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An endpoint. `path` is what follows any run of /v1, `does` says what it is for.

    `statuses` carry `answer`. With `streams`, a body that asks for it is answered by events
    instead. `anthropic` is the answer to Anthropic's clients where `answer` is OpenAI's. `query`
    are the names that may stand behind the `?`. `errors` are the endpoint's own, beyond what may
    happen anywhere or to any body.
    """

    method: str
    path: str
    handler: Handler
    does: str
    answer: type[msgspec.Struct] | JsonKeys | Text
    statuses: tuple[int, ...] = (200,)
    body: type[msgspec.Struct] | None = None
    streams: bool = False
    anthropic: type[msgspec.Struct] | None = None
    query: tuple[str, ...] = ()
    errors: Errors = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that the router has here: HEAD is wherever GET is."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def all_errors(self) -> Errors:
        """Everything that may go wrong here."""
        return ANYWHERE + (OF_A_BODY if self.body else ()) + self.errors


# --- what goes wrong together -------------------------------------------------------------

ANYWHERE: Errors = (
    errors.InvalidRequest,
    errors.WorkerError,
    errors.CrossOriginRequest,
    errors.UnknownHost,
    errors.Unauthorized,
)

OF_A_BODY: Errors = (
    errors.MissingField,
    errors.UnsupportedField,
    errors.BodyTooLarge,
    errors.BodyTooSlow,
    errors.UnsupportedEncoding,
)

AWAY: Errors = (
    errors.ModelLoading,
    errors.ModelFailed,
    errors.MemoryFull,
    errors.ModelTooLarge,
    errors.NodeDraining,
)
"""Why a model cannot be asked."""

ASKED: Errors = (errors.UnknownModel, *AWAY, errors.ChildLost)
"""What a request that names a model may meet."""

READ: Errors = (*ASKED, errors.ContextLengthExceeded)
"""What a request may meet whose text is only read."""

GENERATED: Errors = (
    *ASKED,
    errors.ContextLengthExceeded,
    errors.KvTooLarge,
    errors.QueueFull,
    errors.RequestTimedOut,
    errors.PoisonedRequest,
    errors.WeightsChanged,
    errors.InferenceError,
    errors.ConstraintFailed,
    errors.ConstraintTooCostly,
)
"""What a generation may meet."""
