"""The messages between the front and the process for large bodies: a closed set.

A frame is eight bytes of length, then MessagePack. A question is two frames: the kind of the body
with the terms of the models, and the body as it came. An answer is one frame. Bulky parts of a
request travel as opaque bytes: the front's event loop copies them, whatever the number of values
in them.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import msgspec
from msgspec.structs import replace

from mlx_worker.api.dialects.base import GenerationRequest
from mlx_worker.api.dialects.native.log_level import LogLevelRequest
from mlx_worker.api.dialects.packing import packed_parts
from mlx_worker.api.dialects.responses.request import ResponsesGenerationRequest
from mlx_worker.api.parsing.body_kinds import AnyBodyKind
from mlx_worker.api.parsing.model_table import ModelTable
from mlx_worker.errors import ProtocolViolation, WorkerError, error_class
from mlx_worker.wire.request import ChatRequest

if TYPE_CHECKING:
    from typing import BinaryIO

T = TypeVar("T")

HEADER: Final = 8
"""Bytes of a frame's length."""

MAX_FRAME: Final = 1 << 30
"""Bytes. A body is capped well below this, and its parsed form is a few times as large."""

MAX_MESSAGE: Final = 4096
"""Characters of a refusal: a large body may have a large value where a word should be."""


class ParsingQuestion(msgspec.Struct, frozen=True):
    """The kind of the body that follows, and the terms of the models that the body may name."""

    kind: AnyBodyKind
    models: ModelTable


class PackedChat(msgspec.Struct, frozen=True, array_like=True):
    """A packed request: one without its bulky parts, and those, in the order of `packed_parts`."""

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
        return cls(rest, [_view(part) for part in packed_parts(chat)])

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


class ParsingAnswer(msgspec.Struct, frozen=True, tag=True, tag_field="is"):
    """A base for the tag; never sent itself."""

    def result(self) -> Any:
        """Return the result of parsing the body. Raises the refusal of the body."""
        raise NotImplementedError


class ParsedGeneration(ParsingAnswer, frozen=True):
    """A request without its bulky parts, the chat that all prompts share, and the prompts."""

    request: GenerationRequest
    shared: PackedChat
    prompts: list[memoryview]
    echoed_texts: list[str]
    echoed_tokens: list[memoryview]

    @classmethod
    def of(cls, request: GenerationRequest) -> ParsedGeneration:
        """Return the answer that carries a packed request."""
        return cls(
            replace(request, chats=[], echoed=[]),
            PackedChat.of(request.chats[0]),
            [_view(chat.prompt) for chat in request.chats],
            [prompt for prompt in request.echoed if isinstance(prompt, str)],
            [_view(prompt) for prompt in request.echoed if not isinstance(prompt, str)],
        )

    def result(self) -> GenerationRequest:
        """Return the request, whose chats share all but their prompts."""
        shared = self.shared.request()
        return replace(
            self.request,
            chats=[replace(shared, prompt=msgspec.Raw(prompt)) for prompt in self.prompts],
            echoed=self.echoed_texts or [*map(msgspec.Raw, self.echoed_tokens)],
        )


class ParsedResponse(ParsingAnswer, frozen=True):
    """A request without its one chat and without the fields that its response repeats as JSON."""

    request: ResponsesGenerationRequest
    chat: PackedChat
    repeated: dict[str, memoryview]

    @classmethod
    def of(cls, request: ResponsesGenerationRequest) -> ParsedResponse:
        """Return the answer that carries a packed request."""
        (chat,) = request.chats
        return cls(
            replace(request, chats=[], repeated={}),
            PackedChat.of(chat),
            {field: _view(value) for field, value in request.repeated.items()},
        )

    def result(self) -> ResponsesGenerationRequest:
        """Return the request."""
        return replace(
            self.request,
            chats=[self.chat.request()],
            repeated={field: msgspec.Raw(value) for field, value in self.repeated.items()},
        )


class ParsedChat(ParsingAnswer, frozen=True):
    """A request whose tokens are asked for; None: it has no text."""

    model: str | None
    chat: PackedChat | None

    def result(self) -> tuple[str | None, ChatRequest | None]:
        """Return the model's name and the request."""
        return self.model, None if self.chat is None else self.chat.request()


class ParsedTokens(ParsingAnswer, frozen=True):
    """Tokens whose text is asked for."""

    model: str | None
    tokens: memoryview

    def result(self) -> tuple[str | None, msgspec.Raw]:
        """Return the model's name and the tokens."""
        return self.model, msgspec.Raw(self.tokens)


class ParsedSystemPrompt(ParsingAnswer, frozen=True):
    """A system prompt."""

    model: str | None
    system_prompt: str

    def result(self) -> tuple[str | None, str]:
        """Return the model's name and the system prompt."""
        return self.model, self.system_prompt


class ParsedLogLevel(ParsingAnswer, frozen=True):
    """A level of the log."""

    body: LogLevelRequest

    def result(self) -> LogLevelRequest:
        """Return the level."""
        return self.body


class BodyRefused(ParsingAnswer, frozen=True):
    """The body is refused."""

    code: str
    message: str
    param: str | None
    retry_after: float | None

    @classmethod
    def of(cls, error: WorkerError) -> BodyRefused:
        """Return the answer that carries a refusal."""
        param = error.param and error.param[:MAX_MESSAGE]
        return cls(error.code, error.message[:MAX_MESSAGE], param, error.retry_after)

    def result(self) -> NoReturn:
        """Raise the refusal."""
        kind = error_class(self.code)
        raise kind(self.message, param=self.param, retry_after=self.retry_after)


class ParsingFailed(ParsingAnswer, frozen=True):
    """Parsing ended with an error of this type, which is no refusal."""

    error: str

    def result(self) -> NoReturn:
        """Raise RuntimeError."""
        raise RuntimeError(f"parsing a body failed with {self.error}")


AnyParsingAnswer = (
    ParsedGeneration
    | ParsedResponse
    | ParsedChat
    | ParsedTokens
    | ParsedSystemPrompt
    | ParsedLogLevel
    | BodyRefused
    | ParsingFailed
)

_encoder = msgspec.msgpack.Encoder()
_questions = msgspec.msgpack.Decoder(ParsingQuestion)
_answers: msgspec.msgpack.Decoder[AnyParsingAnswer] = msgspec.msgpack.Decoder(AnyParsingAnswer)


def frame_header(payload: bytes) -> bytes:
    """Return the header of a payload's frame."""
    return len(payload).to_bytes(HEADER, "big")


def payload_size(header: bytes) -> int:
    """Return the length of the payload after a header. Raises ProtocolViolation for no header."""
    size = int.from_bytes(header, "big")
    if len(header) < HEADER or size > MAX_FRAME:
        raise ProtocolViolation(f"no frame begins with {header.hex()}")
    return size


def read_frame(source: BinaryIO) -> bytes | None:
    """Return the next payload, or None at the end. Raises ProtocolViolation for no frame."""
    header = source.read(HEADER)
    if not header:
        return None
    payload = source.read(size := payload_size(header))
    if len(payload) < size:
        raise ProtocolViolation(f"a frame of {size} bytes ended after {len(payload)}")
    return payload


def encode(message: ParsingQuestion | ParsingAnswer) -> bytes:
    """Return a message as a payload."""
    return _encoder.encode(message)


def decode_question(payload: bytes) -> ParsingQuestion:
    """Return the question in a payload. Raises ProtocolViolation where there is none."""
    return _decode(_questions, payload)


def decode_answer(payload: bytes) -> AnyParsingAnswer:
    """Return the answer in a payload. Raises ProtocolViolation where there is none."""
    return _decode(_answers, payload)


def _decode(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolViolation(f"a frame that holds no message: {error}") from error


def answer_for(parsed: Any) -> AnyParsingAnswer:
    """Return the answer that carries the packed result of parsing a body."""
    match parsed:
        case ResponsesGenerationRequest():
            return ParsedResponse.of(parsed)
        case GenerationRequest():
            return ParsedGeneration.of(parsed)
        case (model, content):
            return _answer_for_model(model, content)
        case _:
            return ParsedLogLevel(parsed)


def _answer_for_model(
    model: str | None, content: ChatRequest | msgspec.Raw | str | None
) -> AnyParsingAnswer:
    match content:
        case None:
            return ParsedChat(model, None)
        case ChatRequest():
            return ParsedChat(model, PackedChat.of(content))
        case str():
            return ParsedSystemPrompt(model, content)
        case _:
            return ParsedTokens(model, memoryview(content))


def _view(part: Any) -> memoryview:
    """Return the bytes of a packed part."""
    return memoryview(part)
