"""Earlier turns in the text of a prompt: found, compared, and spliced with their own tokens.

A conversation comes back as text that the template renders again, with other spaces, escapes and
keys than the model sampled, so that its KV would no longer fit. Where all text before a turn is
the text that the turn answered, and the template shows what the model said, the prompt gets the
sampled tokens. Where the template changes or drops something, its own text is read. [child]
"""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING, Final

from mlx_lm.generate import TextStateMachine

from mlx_worker.engine.history.cut import find_cut, sampled_text
from mlx_worker.engine.history.meaning import TurnReader
from mlx_worker.engine.history.memory import (
    DIGEST_BYTES,
    MAX_LEAD,
    Comparison,
    Cut,
    SampledTurn,
    TurnMemory,
    TurnPlace,
    turn_of,
)
from mlx_worker.engine.output.markers import CALL, opening_states
from mlx_worker.logs import Entry
from mlx_worker.wire.splice import Splice, packed, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mlx_worker.engine.history.meaning import Tools
    from mlx_worker.engine.output.markers import Markers
    from mlx_worker.engine.sequence import Sequence as Answer

MAX_PLACES: Final = 1 << 14
"""Places of a text where turns are looked for, the last ones."""

log = logging.getLogger(__name__)


class TurnHistory:
    """Remember the turns of one model, and splice prompts with them."""

    def __init__(self, markers: Markers, max_bytes: int) -> None:
        self._markers = markers
        self._memory = TurnMemory(max_bytes)
        self._is_on = max_bytes > 0
        ends = sorted(markers.stripped | markers.end_tokens)
        words = (re.escape(markers.added[token]) for token in ends if markers.added.get(token))
        self._ends = re.compile("|".join(words) or "(?!)")
        self._joins = _joins_text(markers)

    @property
    def nbytes(self) -> int:
        """Return about how much memory the remembered turns take."""
        return self._memory.nbytes

    def clear(self) -> None:
        """Forget all turns."""
        self._memory.clear()

    # --- remembering ---

    def place_of(self, text: str, tokens: Sequence[int], state: str) -> TurnPlace | None:
        """Return where the answer to a prompt begins; None where that cannot be found again."""
        added = self._markers.added
        anchor = next((added[token] for token in reversed(tokens) if token in added), "")
        found = text.rfind(anchor) if anchor else -1
        if found < 0 or len(text) - found > MAX_LEAD:
            return None
        place = found + len(anchor)
        ((_, digest),) = _digests(text, [place])
        return TurnPlace(anchor, digest, text[place:], state)

    def remember(self, answer: Answer) -> None:
        """Remember the tokens of an answer that has ended; the end token was not said."""
        place, tokens = answer.prompt.answer_place, answer.sampled
        if place is None or answer.text is None or not self._is_on:
            return
        said = tokens[:-1] if tokens and tokens[-1] in answer.ends else tokens
        if said:
            answer.turn = SampledTurn(place, packed(said), answer.text.stop_string)
            self._memory.add(answer.turn)

    def adopt(self, turns: Iterable[SampledTurn]) -> None:
        """Remember turns of a former process, but those that this model cannot have sampled."""
        vocabulary = len(self._markers.tokenizer)
        anchors = frozenset(self._markers.added.values())
        states = opening_states(self._markers.tokenizer)
        refused = 0
        for turn in turns:
            is_known = turn.place.anchor in anchors and turn.place.state in states
            if is_known and max(unpacked(turn.tokens)) < vocabulary:
                self._memory.add(turn)
            else:
                refused += 1
        if refused:
            log.warning(Entry("earlier turns on disk are of no use to this model", turns=refused))

    def turn_of(self, known: SampledTurn | Splice) -> SampledTurn | None:
        """Return a turn itself, or the remembered turn that a splice is of; None if forgotten."""
        if isinstance(known, SampledTurn):
            return known
        for turn in reversed(self._memory.answers_to(known.digest)):
            place = turn.place
            if (place.anchor, place.state) == (known.anchor, known.state) and (
                turn.tokens.startswith(known.tokens)
            ):
                return turn
        return None

    # --- splicing ---

    def splices(self, text: str, tools: Tools) -> list[Splice]:
        """Return what of a prompt's text was sampled earlier; `tools` are those of the request."""
        splices: list[Splice] = []
        reader = TurnReader(self._markers, tools)
        end = 0
        for place, digest in _digests(text, self._places(text)):
            if turns := self._memory.answers_to(digest):
                splice = self._best(reader, text, place, turns, end)
                if splice is not None:
                    splices.append(splice)
                    end = splice.end
        return splices

    def check(self, text: str, splices: Sequence[Splice]) -> list[Splice]:
        """Return the splices of a former process, and remember their turns.

        None of them, if the template made another text for that process: some templates show the
        date.
        """
        digests = dict(_digests(text, [splice.place for splice in splices]))
        if any(digests[splice.place] != splice.digest for splice in splices):
            return []
        for splice in splices:
            self._memory.add(turn_of(splice, text[splice.place : splice.begin]))
        return list(splices)

    # --- inside ---

    def _places(self, text: str) -> list[int]:
        """Return the places behind all added tokens that a remembered turn may follow, rising."""
        places = {
            found.end()
            for anchor in self._memory.anchors
            for found in re.finditer(re.escape(anchor), text)
        }
        return sorted(places)[-MAX_PLACES:]

    def _best(
        self, reader: TurnReader, text: str, place: int, turns: Iterable[SampledTurn], after: int
    ) -> Splice | None:
        """Return the splice of the turn that has most in common with the text at a place."""
        best: Splice | None = None
        for turn in turns:
            begin = place + len(turn.place.lead)
            if after <= begin < len(text) and text.startswith(turn.place.lead, place):
                cut = self._cut(reader, text, begin, turn)
                if cut is not None and (best is None or begin + cut.characters > best.end):
                    best = _splice(turn, place, begin, cut)
        return best

    def _cut(self, reader: TurnReader, text: str, begin: int, turn: SampledTurn) -> Cut | None:
        """Return how much of a turn is in the text from `begin`, by the last result if it fits."""
        known = turn.compared
        if (
            known is not None
            and self._ends.match(text, begin + known.length)
            and _digest(text[begin : begin + known.length]) == known.digest
        ):
            return known.cut
        end, is_closed = self._end_of_turn(text, begin, turn.place.state)
        rendering = text[begin:end]
        sampled = sampled_text(self._markers, turn)
        cut = find_cut(reader, sampled, turn.place.state, rendering, is_closed=is_closed)
        if cut is not None and not self._may_follow(rendering[cut.characters :]):
            cut = None
        if is_closed:
            turn.compared = Comparison(len(rendering), _digest(rendering), cut)
        return cut

    def _end_of_turn(self, text: str, begin: int, state: str) -> tuple[int, bool]:
        """Return where a turn ends, and whether a token that is no text ends it."""
        machine = self._markers.machine.make_state(state) if self._markers.machine else None
        place = begin
        for found in self._ends.finditer(text, begin):
            if machine is not None:
                machine, _ = TextStateMachine.split(machine, text[place : found.start()])
                place = found.start()
                if machine[0] == CALL and not self._is_end(found.group()):
                    continue  # some formats have such tokens within calls
            return found.start(), True
        return len(text), False

    def _is_end(self, word: str) -> bool:
        """Return True for the text of a token that ends answers."""
        return any(self._markers.added.get(token) == word for token in self._markers.end_tokens)

    def _may_follow(self, rest: str) -> bool:
        """Return True if the rest of a turn may be tokenized by itself, behind its own tokens."""
        return self._joins or not rest


def _splice(turn: SampledTurn, place: int, begin: int, cut: Cut) -> Splice:
    return Splice(
        turn.place.anchor,
        place,
        turn.place.digest,
        begin,
        begin + cut.characters,
        turn.place.state,
        packed(unpacked(turn.tokens)[: cut.tokens]),
    )


def _joins_text(markers: Markers) -> bool:
    """Return True if the tokenizer puts nothing in front of a text, as some put a space."""
    tokens = markers.tokenizer.encode("!", add_special_tokens=False)
    return b"".join(map(markers.bytes_of, tokens)) == b"!"


def _digests(text: str, places: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """Yield each of these rising places with the digest of all text before it."""
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    done = 0
    for place in places:
        hasher.update(text[done:place].encode("utf-8", "surrogatepass"))
        done = place
        yield place, hasher.digest()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
