"""What a model says: spans, the output of decode steps, and the ends of generations.

An answer is a list of spans. On the wire the content that comes last is apart, as `text`: nearly
every step of a row is one piece of content, which then needs no list. Nothing outside this module
depends on that split. [both]
"""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from mlx_worker.wire.base import WireMessage, WirePart


class TokenChoice(WirePart, frozen=True, array_like=True):
    """Describe a token that could be chosen: its text by itself, and its log-probability.

    `data` are the bytes that the token adds to an answer, where those are not its text's own: of a
    part of a character, or none of a special token that is not shown.
    """

    text: str
    logprob: float
    data: bytes | None = None

    @property
    def added(self) -> bytes:
        """Return the bytes that the token adds to an answer."""
        return self.text.encode() if self.data is None else self.data


class TokenLogprobs(WirePart, frozen=True, array_like=True):
    """Tell the token that was chosen, and the likeliest ones, likeliest first.

    `is_content`: the token is part of the content, not of reasoning or of a call.
    """

    chosen: TokenChoice
    likeliest: list[TokenChoice]
    is_content: bool = True


class ReasoningText(WirePart, frozen=True, array_like=True, tag="reasoning"):
    """Hold a stretch of the model's reasoning."""

    text: str


class ToolCall(WirePart, frozen=True, array_like=True, tag="call"):
    """Hold a complete call of a tool; `arguments` is JSON."""

    id: str
    name: str
    arguments: str


class InvalidToolCall(WirePart, frozen=True, array_like=True, tag="broken"):
    """Hold a call that cannot be carried out: the text between its markers, and the problem."""

    text: str
    problem: str


class Notice(WirePart, frozen=True, array_like=True, tag="notice"):
    """Warn about how the answer was made; no part of the answer itself."""

    problem: str


Span = str | ReasoningText | ToolCall | InvalidToolCall | Notice
"""A stretch of an answer; content is a bare string."""


def visible_text(span: Span) -> str:
    """Return what of a span is shown as content: the text of an invalid call too."""
    match span:
        case str():
            return span
        case InvalidToolCall():
            return span.text
        case _:
            return ""


class RowOutput(WirePart, frozen=True, array_like=True):
    """Tell one row's new tokens and the spans that they released.

    `before_text` are the spans in front of the last content, which is `text`: see `spans`.
    `logprobs`, where they were asked for, has one entry a token.
    """

    id: int
    tokens: list[int]
    text: str
    logprobs: list[TokenLogprobs] = []
    before_text: list[Span] = []

    @classmethod
    def of(
        cls, id_: int, tokens: list[int], spans: list[Span], logprobs: list[TokenLogprobs]
    ) -> RowOutput:
        """Return the output of a row that released these spans."""
        text, before_text = _split(spans)
        return cls(id_, tokens, text, logprobs, before_text)

    @property
    def spans(self) -> list[Span]:
        """Return all spans, in order; content is never empty."""
        return _joined(self.before_text, self.text)

    def add_spans_to(self, spans: list[Span]) -> None:
        """Append all spans to a list, without a list in between: this is done for every row."""
        spans += self.before_text
        if self.text:
            spans.append(self.text)

    @classmethod
    def joined(cls, outputs: list[RowOutput]) -> RowOutput:
        """Return the outputs of a row in several steps, in order, as one."""
        if len(outputs) == 1:
            return outputs[0]
        tokens: list[int] = []
        logprobs: list[TokenLogprobs] = []
        before_text: list[Span] = []
        text = ""
        for output in outputs:
            tokens += output.tokens
            logprobs += output.logprobs
            if output.before_text:
                before_text = [*_joined(before_text, text), *output.before_text]
                text = output.text
            else:
                text += output.text
        return cls(outputs[0].id, tokens, text, logprobs, before_text)


class StepOutput(WireMessage, frozen=True):
    """Tell the output of all rows in a decode step, or in several short ones."""

    rows: list[RowOutput]


FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


class Done(WireMessage, frozen=True):
    """End a `Generate`; the spans are what was still held back.

    `stop_string` is the stop string that ended the answer, "" where none did. `reasoning_tokens`
    are those of `completion_tokens` that were generated while the model reasoned. `context_full`:
    the context's limit ended the answer, not `max_tokens`. `loop_period` is the number of tokens
    whose repetition ended the answer, 0 where none did. `text` and `before_text` are as in
    `RowOutput`. Of the request's prediction `accepted_prediction_tokens` were drafted and right,
    `rejected_prediction_tokens` drafted and wrong.
    """

    id: int
    finish: FinishReason
    completion_tokens: int
    text: str = ""
    before_text: list[Span] = []
    stop_string: str = ""
    reasoning_tokens: int = 0
    context_full: bool = False
    loop_period: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0

    @classmethod
    def of(
        cls,
        id_: int,
        finish: FinishReason,
        completion_tokens: int,
        spans: list[Span],
        *,
        stop_string: str = "",
        reasoning_tokens: int = 0,
        context_full: bool = False,
        loop_period: int = 0,
        accepted_prediction_tokens: int = 0,
        rejected_prediction_tokens: int = 0,
    ) -> Done:
        """Return the end of a generation that releases these spans."""
        text, before_text = _split(spans)
        return cls(
            id_,
            finish,
            completion_tokens,
            text,
            before_text,
            stop_string,
            reasoning_tokens,
            context_full,
            loop_period,
            accepted_prediction_tokens,
            rejected_prediction_tokens,
        )

    @property
    def spans(self) -> list[Span]:
        """Return all spans, in order; content is never empty."""
        return _joined(self.before_text, self.text)

    def add_spans_to(self, spans: list[Span]) -> None:
        """Append all spans to a list."""
        spans += self.spans

    def with_notice(self, problem: str) -> Done:
        """Return the same end with a warning as its last span."""
        return replace(self, text="", before_text=[*self.spans, Notice(problem)])


class PromptScores(WireMessage, frozen=True):
    """Tell log-probabilities of the next tokens of a prompt, as JSON that the front passes on.

    `echoed` are the lists of a completion's logprobs, in the order of `LOGPROB_LISTS`; `listed` is
    vLLM's list. Each is a stretch of a list, without brackets; with `is_last` the lists are whole.
    """

    id: int
    echoed: list[bytes]
    listed: bytes
    is_last: bool


def _split(spans: list[Span]) -> tuple[str, list[Span]]:
    """Return the content that comes last, and the spans before it; empty content is left out."""
    if len(spans) == 1 and isinstance(only := spans[0], str):  # nearly every step of a row
        return only, []
    before_text = [span for span in spans if span]
    text = ""
    while before_text and isinstance(last := before_text[-1], str):
        text = last + text
        before_text.pop()
    return text, before_text


def _joined(before_text: list[Span], text: str) -> list[Span]:
    return [*before_text, text] if text else before_text
