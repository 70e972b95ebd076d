"""The last prompts of each session, to tell where the next one parts from them.

Of a prompt its tokens and those of its answer are kept, and of its parts hashes: so a part that
changed is found without a second look at any text. A session may have several prompts at once, as
an agent with helpers has: the next prompt is compared with the prompt that begins most like it. The
memory is bounded by bytes, and the session that had no prompt for longest is forgotten first. Runs
beside the decode loop, on the threads that prepare prompts. [child]
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.engine.kv.prefix import common_prefix
from mlx_worker.engine.templates.chat_text import system_messages
from mlx_worker.wire.parting import Parting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.wire.request import ChatRequest

MAX_BYTES: Final = 16 << 20
"""Bytes of all remembered prompts: four million tokens."""

PROMPTS_OF_A_SESSION: Final = 4

REASONING: Final = "reasoning_content"
"""The key of a turn's reasoning in a request."""

_TOKEN: Final = 4
"""Bytes of a token id."""

_HASH: Final = 8
"""Bytes of a hash: two parts of one session never have the same by chance."""

_OVERHEAD: Final = 512
"""Bytes that a prompt takes beside its tokens and its turns; a turn takes `_OF_A_TURN`."""

_OF_A_TURN: Final = 192


@dataclass(frozen=True, slots=True)
class _Turn:
    """A message after the system prompt: `shown` is the hash of it without its reasoning."""

    role: str
    whole: bytes
    shown: bytes


@dataclass(frozen=True, slots=True)
class _Parts:
    """The hashes of the parts of a prompt; a prompt without roles has none of them."""

    is_chat: bool
    system: bytes
    tools: bytes
    arguments: bytes
    turns: tuple[_Turn, ...]


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A prompt. `key` names the body that it came with, whose choices share one parting.

    `said` tokens are those of its turns: the words behind them open the answer. `answer` has the
    tokens of the answer that have KV, which the last one has not.
    """

    key: str
    tokens: bytes
    said: int
    parts: _Parts
    parting: Parting | None
    answer: bytes = b""

    @property
    def whole(self) -> bytes:
        return self.tokens + self.answer

    @property
    def nbytes(self) -> int:
        size = len(self.tokens) + len(self.answer)
        return _OVERHEAD + size + _OF_A_TURN * len(self.parts.turns)


class PartingMemory:
    """Remembers the last prompts of the sessions of one model."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, tuple[_Remembered, ...]] = OrderedDict()
        self.nbytes = 0

    def part(self, session: str, key: str, request: ChatRequest, prompt: Prompt) -> Parting | None:
        """Return where a prompt parts from the last one of its session, and remember the prompt.

        None where the session has no name, or no earlier prompt of it is known. `key` names the
        body: its other choices are told the same.
        """
        if not session:
            return None
        tokens = array("I", prompt.tokens).tobytes()
        with self._lock:
            known = self._sessions.get(session, ())
        for earlier in known:
            if earlier.key == key and earlier.tokens == tokens:
                return earlier.parting
        parts = _parts_of(request)
        parting = _nearest(known, tokens, parts, prompt)
        self._remember(session, _Remembered(key, tokens, _said(prompt), parts, parting))
        return parting

    def add_answer(self, session: str, key: str, tokens: Sequence[int]) -> None:
        """Remember the answer to a prompt of a session."""
        answer = array("I", tokens[:-1]).tobytes()
        with self._lock:
            prompts = self._sessions.get(session, ())
            last = max((at for at, one in enumerate(prompts) if one.key == key), default=None)
            if last is None:
                return
            answered = replace(prompts[last], answer=answer)
            self._sessions[session] = (*prompts[:last], answered, *prompts[last + 1 :])
            self.nbytes += answered.nbytes - prompts[last].nbytes
            self._shrink()

    def clear(self) -> None:
        """Forget every prompt."""
        with self._lock:
            self._sessions.clear()
            self.nbytes = 0

    def _remember(self, session: str, new: _Remembered) -> None:
        with self._lock:
            known = self._sessions.pop(session, ())
            kept = [earlier for earlier in known if not new.tokens.startswith(earlier.tokens)]
            kept = [*kept[-(PROMPTS_OF_A_SESSION - 1) :], new]
            self._sessions[session] = tuple(kept)
            self.nbytes += _size(kept) - _size(known)
            self._shrink()

    def _shrink(self) -> None:
        while self.nbytes > self._max_bytes:
            _, oldest = self._sessions.popitem(last=False)
            self.nbytes -= _size(oldest)


def _size(prompts: Iterable[_Remembered]) -> int:
    return sum(prompt.nbytes for prompt in prompts)


# --- comparing ----------------------------------------------------------------------------


def _nearest(
    known: Sequence[_Remembered], tokens: bytes, parts: _Parts, prompt: Prompt
) -> Parting | None:
    """Return the parting from the prompt with which most is shared, of several the last one."""
    if not known:
        return None
    shared, at = max(
        (common_prefix(earlier.whole, tokens) // _TOKEN, at) for at, earlier in enumerate(known)
    )
    last = known[at]
    size = len(last.whole) // _TOKEN
    if shared >= min(last.said, _said(prompt)):
        return _after_turns(Parting(shared, size, "none"), last, parts)
    if not (parts.is_chat and last.parts.is_chat):
        return Parting(shared, size, "prompt")
    return _located(Parting(shared, size, "template"), last.parts, parts, prompt)


def _after_turns(parting: Parting, last: _Remembered, now: _Parts) -> Parting:
    """Return a parting behind the turns of the last prompt, which may be within its answer.

    Without turns behind them the prompt is the same again, and the answer has no place in it.
    """
    turn = len(last.parts.turns)
    is_whole = parting.shared >= parting.last
    if is_whole or not last.answer or not now.is_chat or turn >= len(now.turns):
        return parting
    role = now.turns[turn].role
    return msgspec.structs.replace(parting, part="answer", turn=turn + 1, role=role)


def _said(prompt: Prompt) -> int:
    """Return where the turns of a prompt end, in tokens."""
    return max(prompt.all_segment_ends, default=len(prompt.tokens))


def _located(parting: Parting, before: _Parts, now: _Parts, prompt: Prompt) -> Parting:
    """Return a parting with the part that differs first, as far as the place in tokens tells."""
    head = [
        name
        for name in ("system", "tools", "arguments")
        if getattr(before, name) != getattr(now, name)
    ]
    turn = _changed_turn(before.turns, now.turns, parting.shared, prompt)
    if turn is not None and not (head and parting.shared < prompt.system_prefix):
        role = now.turns[turn].role if turn < len(now.turns) else ""
        return msgspec.structs.replace(parting, part="turn", turn=turn + 1, role=role)
    return msgspec.structs.replace(parting, part=head[0]) if head else parting


def _changed_turn(
    before: Sequence[_Turn], now: Sequence[_Turn], shared: int, prompt: Prompt
) -> int | None:
    """Return the index of the first turn that changed; None if all of them came again.

    Many templates do not show the reasoning of earlier turns. So a turn of which only the reasoning
    changed counts where no other turn did, or where the place in tokens speaks for it.
    """
    whole = _first_change([turn.whole for turn in before], [turn.whole for turn in now])
    shown = _first_change([turn.shown for turn in before], [turn.shown for turn in now])
    changes = [index for index in (shown, whole) if index is not None]
    last = _last_turn(now)
    in_history = len(prompt.segment_ends) > 1 and shared < prompt.segment_ends[0]
    plausible = (index for index in changes if (index < last) == in_history)
    return next(plausible, changes[0] if changes else None)


def _first_change(before: Sequence[bytes], now: Sequence[bytes]) -> int | None:
    """Return the first index at which a turn changed or is missing; None if turns were added."""
    index = common_prefix(before, now)
    return None if index == len(before) else index


def _last_turn(turns: Sequence[_Turn]) -> int:
    """Return the index after the assistant's last turn that is followed by another."""
    answered = (at for at, turn in enumerate(turns[:-1], 1) if turn.role == "assistant")
    return max(answered, default=0)


# --- hashes of the parts ------------------------------------------------------------------


def _parts_of(request: ChatRequest) -> _Parts:
    messages = request.messages
    system = system_messages(messages)
    turns = tuple(_turns(messages[len(system) :]))
    return _Parts(
        request.prompt is None,
        _hash(system),
        _hash(request.tools),
        _hash(request.template_kwargs),
        turns,
    )


def _turns(messages: Sequence[dict[str, Any]]) -> Iterator[_Turn]:
    for message in messages:
        whole = shown = _hash(message)
        if REASONING in message:
            shown = _hash({key: message[key] for key in message if key != REASONING})
        yield _Turn(str(message["role"]), whole, shown)


def _hash(value: Any) -> bytes:
    return hashlib.blake2b(msgspec.msgpack.encode(value), digest_size=_HASH).digest()
