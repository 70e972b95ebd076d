"""What a dialect is: a body parsed into the neutral request, and a reply written in its bytes.

The relay carries every generation the one same way and asks these for the words. [front]
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping  # msgspec reads the annotations of a class
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import msgspec
from msgspec.structs import replace

from mlx_worker.api.dialects.packing import nbytes, packed_chat
from mlx_worker.api.dialects.whole_numbers import with_whole_numbers
from mlx_worker.errors import InvalidRequest, MissingField
from mlx_worker.validation import IS_REQUIRED, explain
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.requests.generation import FinishInfo
    from mlx_worker.supervisor.requests.output_buffer import OutputDelta

T = TypeVar("T")


MAX_COPIED = 32 * 1024 * 1024
"""Bytes that the choices of one body may take on their way to a model, where there are several."""


class Places(NamedTuple):
    """How many requests a model takes at a time, those at work and those in line together."""

    model: str
    most: int

    def check(self, choices: int, field: str) -> None:
        """Raise InvalidRequest where one body asks for more choices than can ever be in line."""
        if choices > self.most:
            raise InvalidRequest(
                f"{field}: {choices} choices; model {self.model!r} takes {self.most} requests at"
                " a time",
                param=field,
            )


class Call(msgspec.Struct, frozen=True):
    """A parsed request: for whom, what, and how the answer is wanted.

    `seed` is the caller's own or was made for it; `n` choices are to be made of each chat, of
    which only a completion has more than one. `warnings` say what of the request was left out.
    """

    model: str | None
    chats: list[ChatRequest]
    stream: bool
    include_usage: bool
    seed: int
    n: int
    warnings: list[str] = []

    FIELDS: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """The dialect's names of fields that a model's process knows by those of chat completions."""

    @property
    def wide(self) -> int:
        """How many choices there are in all."""
        return self.n * len(self.chats)

    @property
    def field(self) -> str:
        """The field that makes the choices several."""
        return "n" if self.n > 1 else "prompt"

    def packed(self) -> Self:
        """Return the same call with its bulky parts packed."""
        return replace(self, chats=[packed_chat(chat) for chat in self.chats])

    def check_size(self) -> None:
        """Raise InvalidRequest where the choices of a packed call are too much together."""
        if self.wide == 1:
            return
        size = self.n * sum(map(nbytes, self.chats))
        if size > MAX_COPIED:
            raise InvalidRequest(
                f"{self.field}: {self.wide} choices with {size} bytes of prompts and schemas"
                f" together; the limit is {MAX_COPIED}",
                param=self.field,
            )

    def choices(self) -> list[ChatRequest]:
        """A request a choice, those of one chat side by side.

        The first of a chat has the seed itself, the others have seeds made of it.
        """
        return [
            chat if choice == 0 else _with_seed(chat, choice)
            for chat in self.chats
            for choice in range(self.n)
        ]


def _with_seed(chat: ChatRequest, choice: int) -> ChatRequest:
    made = hashlib.sha256(f"choice {choice} of {chat.sampling.seed}".encode()).digest()
    seed = int.from_bytes(made[:8], "little")
    return replace(chat, sampling=replace(chat.sampling, seed=seed))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; `cached` of `prompt` were resident, all choices made `completion`.

    `reasoning` are those of `completion` that were said while a model reasoned.
    """

    prompt: int
    cached: int
    completion: int = 0
    reasoning: int = 0


class Reply(Protocol):
    """One answer being written; its choices are counted from 0."""

    def opening(self, usage: Usage) -> bytes:
        """The first bytes of a stream, sent before there is any text."""

    def sign(self) -> bytes:
        """The model is at work and has nothing to say: for whoever waits for bytes."""

    def piece(self, piece: OutputDelta, choice: int) -> bytes:
        """Some of a choice of a stream."""

    def closing(self, endings: Sequence[FinishInfo], usage: Usage) -> bytes:
        """The last bytes of a stream whose choices all ended as they should."""

    def broken(self, error: WorkerError) -> bytes:
        """The last bytes of a stream that did not."""

    def whole(self, choices: Sequence[Whole], usage: Usage) -> bytes:
        """The body of an answer that is not streamed."""


Whole = tuple["OutputDelta", "FinishInfo"]
"""A whole choice: all of it, and how it ended."""

COMMENT = b": the model is at work\n\n"
"""Event-stream readers pass over it, and whoever waits for bytes knows to wait on."""


def decode(body: bytes, shape: type[T]) -> T:
    """A JSON body as a typed value. Raises InvalidRequest that names field, value and limit."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        return _read_again(_raw(body), shape, error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error


def _read_again(raw: Any, shape: type[T], error: msgspec.ValidationError) -> T:
    """Return a body that fits but for how its whole numbers are written. Raises InvalidRequest.

    `raw` None: there is no body, or its nesting is too deep to be read without a type.
    """
    if raw is not None:
        try:
            return msgspec.convert(with_whole_numbers(raw), shape, str_keys=True)
        except msgspec.ValidationError as other:
            error = other
    path, problem = explain(error, raw, shape)
    kind = MissingField if problem == IS_REQUIRED and "." not in path else InvalidRequest
    raise kind(f"{path or 'body'}: {problem}", param=path or None) from error


def fitted(value: Any, shape: type[T], field: str) -> T:
    """What is in a field as a typed value. Raises InvalidRequest as `decode` does."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        path, problem = explain(error, value, shape)
        place = f"{field}{path if path.startswith('[') else f'.{path}' if path else ''}"
        raise InvalidRequest(f"{place}: {problem}", param=place) from error


def rename_field(error: WorkerError, fields: Mapping[str, str]) -> None:
    """Have an error name the caller's field where a model's process named another."""
    if error.param is None or (field := fields.get(error.param)) is None:
        return
    if error.message.startswith(f"{error.param}:"):
        error.message = field + error.message.removeprefix(error.param)
    error.param = field


def _raw(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
