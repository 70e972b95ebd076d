"""The answer to one request, and when its parts arrived.

The bytes are read after the load is over, so that reading does not slow the load. Tokens are
counted by the server's own `usage`. Times are seconds of one monotonic clock. [bench]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mlx_worker.bench.response import ResponseReader
from mlx_worker.bench.sse import EventReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DONE = b"[DONE]"
OK = 200


@dataclass
class MeasuredAnswer:
    """One request's answer. `texts` are the arrivals that brought text, in order."""

    sent: float
    ended: float
    status: int
    texts: list[float]
    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    complete: bool = False
    complaint: str = ""

    @property
    def ttft(self) -> float:
        """Return the seconds from before connecting to the first text; NaN if no text came."""
        return self.texts[0] - self.sent if self.texts else float("nan")

    @property
    def gaps(self) -> list[float]:
        """Return the seconds between arrivals with text: the pauses that a reader notices."""
        return [b - a for a, b in zip(self.texts, self.texts[1:], strict=False)]

    def gaps_within(self, start: float, end: float) -> list[float]:
        """Return the gaps that touch this stretch of time."""
        pairs = zip(self.texts, self.texts[1:], strict=False)
        return [b - a for a, b in pairs if b > start and a < end]


def read_answer(
    sent: float, ended: float, arrivals: Iterable[tuple[float, bytes]], *, stream: bool
) -> MeasuredAnswer:
    """Return the answer in these bytes; `complaint` says what is wrong with them."""
    answer = MeasuredAnswer(sent, ended, 0, [])
    reader = ResponseReader()
    body = [(time, part) for time, data in arrivals if (part := reader.feed(data))]
    answer.status = reader.status
    if not reader.status:
        answer.complaint = "the connection was closed before anything was answered"
        return answer
    if reader.status != OK:
        said = b"".join(part for _, part in body).decode(errors="replace")
        answer.complaint = f"HTTP status {reader.status}: {said[:200]}"
        return answer
    if stream:
        _read_stream(answer, body)
    else:
        _read_whole(answer, b"".join(part for _, part in body))
    if not answer.complete and not answer.complaint:
        answer.complaint = f"the answer ended after {answer.text[-40:]!r}"
    return answer


def _read_whole(answer: MeasuredAnswer, body: bytes) -> None:
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return
    answer.text = said["choices"][0]["message"]["content"] or ""
    answer.texts = [answer.ended]
    _read_usage(answer, said["usage"])
    answer.complete = True


def _read_stream(answer: MeasuredAnswer, body: list[tuple[float, bytes]]) -> None:
    pieces = []
    for time, data in _events(body):
        if data == DONE:
            answer.complete = True
            continue
        event = msgspec.json.decode(data)
        if "error" in event:
            answer.complaint = str(event["error"].get("message", event["error"]))
        elif text := "".join(_text_of(choice) for choice in event.get("choices") or ()):
            pieces.append(text)
            if not answer.texts or time > answer.texts[-1]:
                answer.texts.append(time)
        if event.get("usage"):
            _read_usage(answer, event["usage"])
    answer.text = "".join(pieces)


def _events(body: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    reader = EventReader()
    for time, part in body:
        for data in reader.feed(part):
            yield time, data


def _text_of(choice: dict[str, Any]) -> str:
    delta = choice["delta"]
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    return thought + (delta.get("content") or "")


def _read_usage(answer: MeasuredAnswer, usage: dict[str, Any]) -> None:
    answer.prompt_tokens = usage["prompt_tokens"]
    answer.completion_tokens = usage["completion_tokens"]
    details = usage.get("prompt_tokens_details") or {}
    answer.cached_tokens = details.get("cached_tokens")
