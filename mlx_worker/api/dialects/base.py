"""What a dialect is: how its body becomes a neutral request, and who writes its responses.

The relay runs every generation in the same way; a `ResponseWriter` turns the output into the bytes
of a dialect.

[front]
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeVar

import msgspec
from msgspec.structs import replace

from mlx_worker.api.dialects.packing import pack_chat, pack_value, packed_size
from mlx_worker.api.dialects.session_fields import Session
from mlx_worker.errors import InvalidRequest
from mlx_worker.json_output import encode
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlx_worker.api.dialects.fields import CommonFields
    from mlx_worker.api.dialects.model_terms import TermsLookup
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.requests.generation import FinishInfo
    from mlx_worker.supervisor.requests.output_buffer import OutputDelta
    from mlx_worker.wire.parting import Parting

MAX_COPIED = 32 * 1024 * 1024
"""Bytes of all choices of one body on their way to a model, where there are several."""

Prompt = str | list[int]
"""Text, or token ids."""

SESSION_FIELD = "mlx_worker_session"
"""The node's own field of a response's usage, in every dialect."""


class GenerationRequest(msgspec.Struct, frozen=True):
    """A parsed body: the model, the chats, and how the response is wanted.

    `seed` is the caller's own or was generated. Each chat gets `n` choices; only a completion has
    several chats, which differ in their prompts alone. `warnings` name what was left out of the
    request. `echoed` are the prompts that the choices of a completion begin with. `session` is that
    of the body's own fields. `dropped_lines` at the head of the system prompt were left out.
    """

    model: str | None
    chats: list[ChatRequest]
    stream: bool
    include_usage: bool
    seed: int
    n: int
    warnings: list[str] = []
    echoed: list[Prompt] = []
    session: Session | None = None
    dropped_lines: int = 0

    @property
    def choice_count(self) -> int:
        """The number of choices of all chats."""
        return self.n * len(self.chats)

    @property
    def choices_field(self) -> str:
        """The field that asks for several choices."""
        return "n" if self.n > 1 else "prompt"

    def check_size(self) -> None:
        """Raise InvalidRequest if the choices of a packed request have too many bytes together."""
        if self.choice_count == 1:
            return
        size = self.n * sum(map(packed_size, self.chats))
        if size > MAX_COPIED:
            raise InvalidRequest(
                f"{self.choices_field}: {self.choice_count} choices with {size} bytes of prompts"
                f" and schemas together; the limit is {MAX_COPIED}",
                param=self.choices_field,
            )

    def packed(self) -> Self:
        """Return the same request with its bulky parts packed, what all chats share only once.

        Raises InvalidRequest.
        """
        shared = pack_chat(self.chats[0])
        return replace(
            self,
            chats=[replace(shared, prompt=pack_value(chat.prompt)) for chat in self.chats],
            echoed=[
                prompt if isinstance(prompt, str) else pack_value(prompt) for prompt in self.echoed
            ],
        )

    def split_choices(self) -> list[ChatRequest]:
        """Return a request for each choice; the choices of one chat follow each other.

        The first choice of a chat has the request's seed, the others have seeds derived from it.
        """
        return [
            chat if choice == 0 else _with_derived_seed(chat, choice)
            for chat in self.chats
            for choice in range(self.n)
        ]


def _with_derived_seed(chat: ChatRequest, choice: int) -> ChatRequest:
    digest = hashlib.sha256(f"choice {choice} of {chat.sampling.seed}".encode()).digest()
    seed = int.from_bytes(digest[:8], "little")
    return replace(chat, sampling=replace(chat.sampling, seed=seed))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one response: `cached` of `prompt` were resident, all choices have `completion`.

    `reasoning` of the `completion` tokens were generated while a model reasoned. `parting` is that
    of the first prompt; None where no earlier prompt of its session is known. `disk` of the cached
    tokens were read from disk. The last two count drafted tokens of the request's prediction.
    """

    prompt: int
    cached: int
    completion: int = 0
    reasoning: int = 0
    parting: Parting | None = None
    disk: int = 0
    accepted_prediction: int = 0
    rejected_prediction: int = 0

    @property
    def session_field(self) -> dict[str, dict[str, Any]]:
        """The field that tells how the prompt fits the last one of its session; {} if unknown."""
        parting = self.parting
        if parting is None:
            return {}
        told: dict[str, Any] = {
            "shared_tokens": parting.shared,
            "last_prompt_tokens": parting.last,
            "parted": parting.part,
        }
        if parting.turn is not None:
            told |= {"turn": parting.turn, "role": parting.role or None}
        return {SESSION_FIELD: told}


@dataclass(frozen=True, slots=True)
class ResponseInfo:
    """What a response says beside the model's output.

    `model` is the name in the response, `created` in seconds since the epoch. `echoes` are the
    texts of the request's `echoed` prompts. `reasoning_summaries` is the node's configuration.
    `fingerprint` is None in a response that begins before a process has begun it. `response_id` is
    the id that a client may ask for; "" if the response needs none.
    """

    model: str
    created: int
    fingerprint: str | None
    echoes: Sequence[str] = ()
    reasoning_summaries: Literal["asked", "always"] = "asked"
    response_id: str = ""


class ResponseWriter(Protocol):
    """The bytes of one response in a dialect; its choices are counted from 0."""

    def start(self, usage: Usage) -> bytes:
        """Return the first bytes of a stream, sent before there is any text."""

    def identify(self, fingerprint: str) -> None:
        """Name the process of an answer whose stream has started without a fingerprint."""

    def keepalive(self) -> bytes:
        """Return an event without output, for clients that wait while the model works.

        Not a comment: many clients count the time since the last event, and see no comments.
        """

    def delta(self, output: OutputDelta, choice: int) -> bytes:
        """Return the next output of a choice of a stream."""

    def finish(self, endings: Sequence[FinishInfo], usage: Usage) -> bytes:
        """Return the last bytes of a stream whose choices all ended without an error."""

    def error(self, error: WorkerError) -> bytes:
        """Return the last bytes of a stream that failed."""

    def full_response(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """Return the body of a response that is not streamed."""


FinishedChoice = tuple["OutputDelta", "FinishInfo"]
"""All output of a choice, and how the choice ended."""


def loop_field(ending: FinishInfo) -> dict[str, Any]:
    """Return the field that tells of a repetition that ended an answer; empty where none did."""
    return {"loop": {"period": ending.loop_period}} if ending.loop_period else {}


def sse_event(data: dict[str, Any]) -> bytes:
    """Return a server-sent event that is named by its type; `data` has its type first."""
    return b"event: %s\ndata: %s\n\n" % (data["type"].encode(), encode(data))


DialectName = Literal["chat", "completions", "responses", "messages"]

R = TypeVar("R", bound=GenerationRequest)


@dataclass(frozen=True, slots=True)
class Dialect(Generic[R]):
    """The HTTP dialect of one generation endpoint.

    `name` is its label in logs and metrics, `body` types its bodies. `parse` turns a body into a
    request, by the terms of the model that the body names; `writer` writes the response.
    `field_names` are the dialect's names of fields that a model's process knows by the names of
    chat completions.
    """

    name: DialectName
    body: type[CommonFields]
    parse: Callable[[bytes, TermsLookup], R]
    writer: Callable[[R, ResponseInfo], ResponseWriter]
    field_names: Mapping[str, str]


def rename_field(error: WorkerError, field_names: Mapping[str, str]) -> None:
    """Make an error of a model's process name the caller's field."""
    if error.param is None or (field := field_names.get(error.param)) is None:
        return
    if error.message.startswith(f"{error.param}:"):
        error.message = field + error.message.removeprefix(error.param)
    error.param = field
