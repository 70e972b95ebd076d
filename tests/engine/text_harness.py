"""Texts as tokens however they are cut, and what a text stream makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from mlx_worker.bench.synthetic.tokenizer import byte_alphabet
from mlx_worker.engine.output.markers import Markers
from mlx_worker.engine.output.text_stream import TextStream
from mlx_worker.wire.output import FinishReason, ReasoningText, Span
from mlx_worker.wire.request import ChatRequest, Sampling

if TYPE_CHECKING:
    from collections.abc import Iterable


ALPHABET = byte_alphabet()


def by_bytes(tokenizer: Any, text: str) -> list[int]:
    """The finest cut there is: a token a byte, markers and multi-byte characters included."""
    ids: list[int] = tokenizer.convert_tokens_to_ids([ALPHABET[byte] for byte in text.encode()])
    return ids


def request(*stop: str, seed: int = 1, **fields: Any) -> ChatRequest:
    return ChatRequest([], Sampling(seed=seed), stop=list(stop), **fields)


@dataclass
class Said:
    """All that a stream released, neighbours of one kind joined."""

    spans: list[Span] = field(default_factory=list)

    def take(self, released: list[Span]) -> None:
        for span in released:
            last = self.spans[-1] if self.spans else None
            if isinstance(span, str) and isinstance(last, str):
                self.spans[-1] = last + span
            elif isinstance(span, ReasoningText) and isinstance(last, ReasoningText):
                self.spans[-1] = ReasoningText(last.text + span.text)
            elif span:
                self.spans.append(span)

    @property
    def content(self) -> str:
        return "".join(it for it in self.spans if isinstance(it, str))


def stream(tokenizer: Any, asked: ChatRequest | None = None, state: str = "normal") -> TextStream:
    return TextStream(Markers(tokenizer), asked or request(), state)


def text_of(spans: Iterable[Span]) -> str:
    """Return the content of spans, of which all are content."""
    return "".join(cast("Iterable[str]", spans))


def hear(it: TextStream, tokens: Iterable[int], natural: FinishReason = "stop") -> Said:
    """Everything it says to these tokens, as the engine would ask for it."""
    said = Said()
    for token in tokens:
        if it.stopped:
            break
        said.take(it.add(token))
    said.take(it.finish(natural))
    return said
