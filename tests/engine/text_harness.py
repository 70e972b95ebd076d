"""Texts as tokens, cut in several ways, and the spans that a text stream makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
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
    """Return a token for each byte, also within markers and multi-byte characters."""
    ids: list[int] = tokenizer.convert_tokens_to_ids([ALPHABET[byte] for byte in text.encode()])
    return ids


def request(*stop: str, seed: int = 1, **fields: Any) -> ChatRequest:
    return ChatRequest([], Sampling(seed=seed), stop=list(stop), **fields)


@dataclass
class CollectedSpans:
    """Collect the spans that a stream released, neighbours of one kind joined."""

    spans: list[Span] = field(default_factory=list)

    def add(self, released: list[Span]) -> None:
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
        return "".join(span for span in self.spans if isinstance(span, str))


@cache
def markers(tokenizer: Any) -> Markers:
    """A model's markers, made once: they spell out each token of the vocabulary."""
    return Markers(tokenizer)


def stream(tokenizer: Any, asked: ChatRequest | None = None, state: str = "normal") -> TextStream:
    return TextStream(markers(tokenizer), asked or request(), state)


def text_of(spans: Iterable[Span]) -> str:
    """Return the content of spans, of which all are content."""
    return "".join(cast("Iterable[str]", spans))


def collect_spans(
    answer: TextStream, tokens: Iterable[int], natural: FinishReason = "stop"
) -> CollectedSpans:
    """Return all spans of a stream for these tokens, in the order of the engine's calls."""
    said = CollectedSpans()
    for token in tokens:
        if answer.stopped:
            break
        said.add(answer.add(token))
    said.add(answer.finish(natural))
    return said
