"""What the front and the process for large bodies say to each other: a closed set of messages.

A frame is eight bytes of length, then MessagePack. A question is two frames: what is asked, and the
body as it came. An answer is one. Bulky parts of a request travel as opaque bytes: the front's
event loop copies them, however many values are in them. [front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import msgspec
from msgspec.structs import replace

from mlx_worker.api.admin.log_level import LevelBody
from mlx_worker.api.dialects.base import Call
from mlx_worker.api.dialects.completions.request import CompletionCall
from mlx_worker.api.dialects.packing import bulky_parts
from mlx_worker.api.dialects.responses.request import ResponsesCall
from mlx_worker.api.parsing.body_kinds import AnyAsk
from mlx_worker.api.parsing.model_terms import ModelTable
from mlx_worker.errors import ProtocolViolation, WorkerError, error_class
from mlx_worker.wire.messages import ChatRequest

if TYPE_CHECKING:
    from typing import BinaryIO

T = TypeVar("T")

HEADER: Final = 8
"""Bytes of a frame's length."""

MAX_FRAME: Final = 1 << 30
"""Bytes. A body is capped well below this, and what is made of it is a few times as large."""

LONGEST_MESSAGE: Final = 4096
"""Characters of a refusal: a large body may have a large value where a word should be."""


class Question(msgspec.Struct, frozen=True):
    """Which kind of body follows, and the terms of the models that the body may name."""

    ask: AnyAsk
    models: ModelTable


class PackedChat(msgspec.Struct, frozen=True, array_like=True):
    """A packed request: one without its bulky parts, and those, in `bulky_parts`' order."""

    rest: ChatRequest
    bulky: list[memoryview]

    @classmethod
    def of(cls, chat: ChatRequest) -> PackedChat:
        """Return a packed request in this form."""
        rest = replace(
            chat,
            messages=[],
            sampling=replace(chat.sampling, logit_bias={}),
            stop=[],
            template_kwargs={},
            tools=[],
            prompt=None,
        )
        return cls(rest, [_view(part) for part in bulky_parts(chat)])

    def request(self) -> ChatRequest:
        """Return the packed request."""
        messages, bias, stop, template_kwargs, tools, prompt = map(msgspec.Raw, self.bulky)
        return replace(
            self.rest,
            messages=messages,
            sampling=replace(self.rest.sampling, logit_bias=bias),
            stop=stop,
            template_kwargs=template_kwargs,
            tools=tools,
            prompt=prompt,
        )


class Answer(msgspec.Struct, frozen=True, tag=True, tag_field="is"):
    """A base for the tag; never sent itself."""

    def parsed(self) -> Any:
        """Return what parsing made of the body. Raises the refusal of the body."""
        raise NotImplementedError


class ParsedCall(Answer, frozen=True):
    """A call without its chats, and those."""

    call: Call
    chats: list[PackedChat]

    def parsed(self) -> Call:
        """Return the call."""
        return replace(self.call, chats=[chat.request() for chat in self.chats])


class ParsedCompletion(Answer, frozen=True):
    """A call without its chats; one chat, and the prompts that make it several; what is echoed."""

    call: CompletionCall
    shared: PackedChat
    prompts: list[memoryview]
    echoed_texts: list[str]
    echoed_tokens: list[memoryview]

    def parsed(self) -> CompletionCall:
        """Return the call, whose chats share all but their prompts."""
        shared = self.shared.request()
        return replace(
            self.call,
            chats=[replace(shared, prompt=msgspec.Raw(prompt)) for prompt in self.prompts],
            echoed=self.echoed_texts or [*map(msgspec.Raw, self.echoed_tokens)],
        )


class ParsedResponse(Answer, frozen=True):
    """A call without its chats and without what its answer repeats, which is JSON."""

    call: ResponsesCall
    chats: list[PackedChat]
    repeated: dict[str, memoryview]

    def parsed(self) -> ResponsesCall:
        """Return the call."""
        return replace(
            self.call,
            chats=[chat.request() for chat in self.chats],
            repeated={key: msgspec.Raw(json) for key, json in self.repeated.items()},
        )


class ParsedChat(Answer, frozen=True):
    """A request whose tokens are asked for; None: it has no text."""

    model: str | None
    chat: PackedChat | None

    def parsed(self) -> tuple[str | None, ChatRequest | None]:
        """Return for which model, and what."""
        return self.model, None if self.chat is None else self.chat.request()


class ParsedTokens(Answer, frozen=True):
    """Tokens whose text is asked for."""

    model: str | None
    tokens: memoryview

    def parsed(self) -> tuple[str | None, msgspec.Raw]:
        """Return for which model, and which tokens."""
        return self.model, msgspec.Raw(self.tokens)


class ParsedWarming(Answer, frozen=True):
    """A system prompt."""

    model: str | None
    system_prompt: str

    def parsed(self) -> tuple[str | None, str]:
        """Return for which model, and which system prompt."""
        return self.model, self.system_prompt


class ParsedLevel(Answer, frozen=True):
    """A level of the log."""

    body: LevelBody

    def parsed(self) -> LevelBody:
        """Return the level."""
        return self.body


class Refused(Answer, frozen=True):
    """The body is refused."""

    code: str
    message: str
    param: str | None
    retry_after: float | None

    def parsed(self) -> NoReturn:
        """Raise the refusal."""
        kind = error_class(self.code)
        raise kind(self.message, param=self.param, retry_after=self.retry_after)


class Failed(Answer, frozen=True):
    """Parsing ended with an error of this type, which is no refusal."""

    error: str

    def parsed(self) -> NoReturn:
        """Raise RuntimeError."""
        raise RuntimeError(f"parsing a body failed with {self.error}")


AnyAnswer = (
    ParsedCall
    | ParsedCompletion
    | ParsedResponse
    | ParsedChat
    | ParsedTokens
    | ParsedWarming
    | ParsedLevel
    | Refused
    | Failed
)

_encoder = msgspec.msgpack.Encoder()
_questions = msgspec.msgpack.Decoder(Question)
_answers: msgspec.msgpack.Decoder[AnyAnswer] = msgspec.msgpack.Decoder(AnyAnswer)


def header_of(payload: bytes) -> bytes:
    """Return what goes before a payload."""
    return len(payload).to_bytes(HEADER, "big")


def size_of(header: bytes) -> int:
    """Return the length of the payload after a header. Raises ProtocolViolation for no header."""
    size = int.from_bytes(header, "big")
    if len(header) < HEADER or size > MAX_FRAME:
        raise ProtocolViolation(f"no frame begins with {header.hex()}")
    return size


def read_frame(source: BinaryIO) -> bytes | None:
    """Return the next payload, or None at the end. Raises ProtocolViolation for other bytes."""
    header = source.read(HEADER)
    if not header:
        return None
    payload = source.read(size := size_of(header))
    if len(payload) < size:
        raise ProtocolViolation(f"a frame of {size} bytes ended after {len(payload)}")
    return payload


def encode(message: Question | Answer) -> bytes:
    """Return a message as a payload."""
    return _encoder.encode(message)


def question_in(payload: bytes) -> Question:
    """Return the question in a payload. Raises ProtocolViolation where there is none."""
    return _decoded(_questions, payload)


def answer_in(payload: bytes) -> AnyAnswer:
    """Return the answer in a payload. Raises ProtocolViolation where there is none."""
    return _decoded(_answers, payload)


def _decoded(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolViolation(f"a frame that holds no message: {error}") from error


# --- what was parsed, as an answer ---------------------------------------------------------


def answer_of(parsed: Any) -> AnyAnswer:
    """Return the answer that carries what was parsed, packed."""
    match parsed:
        case Call():
            return _call_answer(parsed)
        case (model, what):
            return _pair_answer(model, what)
        case _:
            return ParsedLevel(parsed)


def _call_answer(call: Call) -> AnyAnswer:
    match call:
        case CompletionCall(chats=chats, echoed=echoed):
            return ParsedCompletion(
                replace(call, chats=[], echoed=[]),
                PackedChat.of(chats[0]),
                [_view(chat.prompt) for chat in chats],
                [prompt for prompt in echoed if isinstance(prompt, str)],
                [_view(prompt) for prompt in echoed if not isinstance(prompt, str)],
            )
        case ResponsesCall(chats=chats, repeated=repeated):
            return ParsedResponse(
                replace(call, chats=[], repeated={}),
                [*map(PackedChat.of, chats)],
                {key: _view(json) for key, json in repeated.items()},
            )
        case _:
            return ParsedCall(replace(call, chats=[]), [*map(PackedChat.of, call.chats)])


def _pair_answer(model: str | None, what: ChatRequest | msgspec.Raw | str | None) -> AnyAnswer:
    match what:
        case None:
            return ParsedChat(model, None)
        case ChatRequest():
            return ParsedChat(model, PackedChat.of(what))
        case str():
            return ParsedWarming(model, what)
        case _:
            return ParsedTokens(model, memoryview(what))


def refusal_of(error: WorkerError) -> Refused:
    """Return the answer that carries a refusal."""
    param = error.param and error.param[:LONGEST_MESSAGE]
    return Refused(error.code, error.message[:LONGEST_MESSAGE], param, error.retry_after)


def _view(part: Any) -> memoryview:
    """Return the bytes of a packed part."""
    return memoryview(part)
