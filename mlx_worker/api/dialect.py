"""What a dialect is: a body parsed into the neutral request, and a reply written in its bytes.

The relay carries every generation the one same way and asks these for the words. [front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from mlx_worker.errors import InvalidRequest, MissingField
from mlx_worker.typed import IS_REQUIRED, explain

if TYPE_CHECKING:
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.generation import Piece
    from mlx_worker.wire.messages import ChatRequest, FinishReason

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed request: for whom, what, and how the answer is wanted."""

    model: str | None
    chat: ChatRequest
    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one generation; `cached` of `prompt` were resident."""

    prompt: int
    cached: int
    completion: int


class Reply(Protocol):
    """One answer being written."""

    def opening(self) -> bytes:
        """The first bytes of a stream, sent before there is any text."""

    def piece(self, piece: Piece) -> bytes:
        """Some text of a stream."""

    def closing(self, finish: FinishReason, usage: Usage) -> bytes:
        """The last bytes of a stream that ended as it should."""

    def broken(self, error: WorkerError) -> bytes:
        """The last bytes of a stream that did not."""

    def whole(self, whole: Piece, finish: FinishReason, usage: Usage) -> bytes:
        """The body of an answer that is not streamed."""


def decode(body: bytes, shape: type[T]) -> T:
    """A JSON body as a typed value. Raises InvalidRequest that names field, value and limit."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        path, problem = explain(error, _raw(body))
        kind = MissingField if problem == IS_REQUIRED and "." not in path else InvalidRequest
        raise kind(f"{path or 'body'}: {problem}", param=path or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error


def _raw(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
