"""A conversation in the terminal; the answer of the model appears token by token.

[front]
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlx_worker.cli.client.model_names import model_names, unknown_among
from mlx_worker.errors import WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.cli.client import NodeClient

LEAVE = "/quit"


@dataclass(frozen=True)
class Stats:
    """Figures of one answer: seconds to the first token, tokens, seconds in all."""

    first: float
    tokens: int
    cached: int
    seconds: float

    def __str__(self) -> str:
        """Return the figures as one line."""
        after_first = self.seconds - self.first
        rate = f"{(self.tokens - 1) / after_first:.1f}" if self.tokens > 1 and after_first else "-"
        return (
            f"[first token {self.first * 1000:.0f} ms, {rate} tokens/s, "
            f"{self.tokens} tokens, {self.cached} of the prompt cached]"
        )


@dataclass
class Conversation:
    """The turns so far, and the settings of requests. `write` gets the text of answers."""

    node: NodeClient
    settings: dict[str, Any]
    write: Callable[[str], None]
    turns: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, text: str) -> Stats:
        """Send a question and print the answer as it comes; both stay in the conversation.

        The text of a cancelled or interrupted answer stays; a question without any answer is
        removed. Raises the node's error.
        """
        self.turns.append({"role": "user", "content": text})
        said: list[str] = []
        try:
            return await self._streamed(said)
        finally:
            if said:
                self.turns.append({"role": "assistant", "content": "".join(said)})
            else:
                self.turns.pop()

    async def _streamed(self, said: list[str]) -> Stats:
        body = {
            **self.settings,
            "messages": self.turns,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began = time.monotonic()
        first: float | None = None
        usage: dict[str, Any] = {}
        async with self.node.events("POST", "/v1/chat/completions", body) as events:
            async for event in events:
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    delta = choice["delta"]
                    if delta.get("content") or delta.get("reasoning_content"):
                        first = time.monotonic() - began if first is None else first
                    if piece := delta.get("content"):
                        said.append(piece)
                        self.write(piece)
        seconds = time.monotonic() - began
        return Stats(
            seconds if first is None else first,
            usage.get("completion_tokens", 0),
            usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
            seconds,
        )


def converse(conversation: Conversation, *, stats: bool) -> None:
    """Read questions and answer them, until `/quit` or the end of the input.

    ctrl-C cancels an answer, and the node stops at the next token. At a terminal a failed question
    is reported and the next one may be asked; a script ends with the error. Raises what the node
    reports before the first question.
    """
    names = asyncio.run(model_names(conversation.node))
    model = conversation.settings.get("model")
    if model is not None and model not in names:
        raise unknown_among("the node", model, names)
    while (text := _question()) is not None:
        if not text:
            continue
        try:
            took = asyncio.run(conversation.answer(text))
        except KeyboardInterrupt:
            conversation.write("\n[cancelled]\n")
        except WorkerError as error:
            if not sys.stdin.isatty():
                raise
            conversation.write(f"\n[{error}]\n")
        else:
            conversation.write(f"\n{took}\n" if stats else "\n")


def _question() -> str | None:
    """Return the next line; "" if ctrl-C discarded it, None at the end of the input."""
    try:
        text = input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        return ""
    return None if text == LEAVE else text
