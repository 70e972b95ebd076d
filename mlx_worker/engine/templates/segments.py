"""Chats that differ from a given one right after a segment: where the texts part, it ends.

A template does not say where in its text a message ends. So the same chat is rendered with another
message at that place, and the longest common beginning of both texts is the segment. [child]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.engine.templates.chat_text import chat_text, system_messages
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from mlx_worker.engine.templates.chat_text import Messages

EMPTY_USER_TURN: Final = {"role": "user", "content": ""}


def unused_mark(text: str) -> str:
    """Return a character that the text does not have; in a probe, a user's words begin there."""
    # Few are tried, for each is a search of the text: with all of them in the text, a segment may
    # end a character late, and costs a little reuse.
    unused = (mark for mark in map(chr, range(0xE000, 0xE020)) if mark not in text)
    return next(unused, "\ue000")


def segment_probes(
    tokenizer: Any, messages: Messages, kwargs: dict[str, Any], mark: str
) -> list[str]:
    """Return chats like this one up to the end of its system prompt, its history, its last turn."""
    last = _last_turn(messages)
    try:
        turn = chat_text(tokenizer, messages, kwargs)
    except InvalidRequest:
        turn = ""
    system = system_messages(messages)
    return [
        _system_probe(tokenizer, _System(repr((system, kwargs)), system, kwargs), mark),
        probe(tokenizer, messages[:last], messages[last], kwargs, mark) if last else "",
        turn,
    ]


def probe(
    tokenizer: Any, before: Messages, turn: dict[str, Any], kwargs: dict[str, Any], mark: str
) -> str:
    """Return the text of a chat whose last turn says `mark` alone; "" if the template refuses."""
    try:
        return chat_text(tokenizer, [*before, {**turn, "content": mark}], kwargs)
    except InvalidRequest:
        return ""


@dataclass(frozen=True, slots=True)
class _System:
    """The system messages and the template's arguments; many chats have the same."""

    key: str
    messages: Messages = field(compare=False)
    kwargs: dict[str, Any] = field(compare=False)


@lru_cache(maxsize=16)
def _system_probe(tokenizer: Any, system: _System, mark: str) -> str:
    return probe(tokenizer, system.messages, EMPTY_USER_TURN, system.kwargs, mark)


def _last_turn(messages: Messages) -> int:
    """Return where what follows the assistant's last message begins; 0 where there is none."""
    answered = (at for at, turn in enumerate(messages[:-1], 1) if turn["role"] == "assistant")
    return max(answered, default=0)
