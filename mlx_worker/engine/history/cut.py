"""How many of the tokens of an earlier answer mean what a template shows of that answer.

Mostly all of them. Fewer where a client kept only the beginning of an answer, where a stop string
ended the answer in the middle of a token, or where the template shows the calls of one turn in
several turns. [child]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlx_lm.generate import TextStateMachine

from mlx_worker.engine.history.memory import Cut
from mlx_worker.engine.kv.prefix import common_prefix
from mlx_worker.engine.output.markers import CALL
from mlx_worker.wire.splice import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_worker.engine.history.meaning import Stretch, TurnReader
    from mlx_worker.engine.history.memory import SampledTurn
    from mlx_worker.engine.output.markers import Markers

_TRIALS: Final = 4
"""Places that are tried for a cut, the last first: the first trial nearly always succeeds."""


@dataclass(frozen=True, slots=True)
class SampledText:
    """Hold the text that a turn's tokens make, up to what was said last.

    `boundaries` are (a place in the text, how many tokens come before), rising, where no character
    is cut.
    """

    text: str
    boundaries: Sequence[tuple[int, int]]

    @property
    def tokens(self) -> int:
        """Return how many tokens make all of the text; 0 where it ends inside a token."""
        place, tokens = self.boundaries[-1] if self.boundaries else (0, 0)
        return tokens if place == len(self.text) else 0


def sampled_text(markers: Markers, turn: SampledTurn) -> SampledText:
    """Return the text of a turn, which ends before an end of turn and before its stop string."""
    detokenizer = markers.detokenizer(())
    machine = markers.machine.make_state(turn.place.state) if markers.machine else None
    text, before_last = "", 0
    boundaries: list[tuple[int, int]] = []
    stop = turn.stop
    tokens = unpacked(turn.tokens)
    for count, token in enumerate(tokens, 1):
        in_call = machine is not None and machine[0] == CALL
        if token in markers.end_tokens or (token in markers.stripped and not in_call):
            stop = "" if markers.added.get(token) == stop else stop
            break
        before_last, piece = len(text), detokenizer.add(token)
        text += piece
        if machine is not None and piece:
            machine, _ = TextStateMachine.split(machine, piece)
        if detokenizer.is_whole:
            boundaries.append((len(text), count))
    else:
        if rest := detokenizer.finish():
            text += rest
            boundaries.append((len(text), len(tokens)))
    if stop:
        end = text.find(stop, max(0, before_last + 1 - len(stop)))
        text = text[: max(0, end)]
        boundaries = [boundary for boundary in boundaries if boundary[0] <= len(text)]
    return SampledText(text, boundaries)


def find_cut(
    reader: TurnReader, sampled: SampledText, state: str, rendering: str, *, is_closed: bool
) -> Cut | None:
    """Return how much of a turn and of its rendering mean the same; None where nothing does.

    `is_closed`: the end of a turn follows the rendering, so that whitespace at its end is layout.
    """
    meaning = reader.values(rendering, state)
    if is_closed and sampled.tokens and reader.values(sampled.text, state) == meaning:
        return Cut(sampled.tokens, len(rendering))
    said, shown = (reader.stretches(text, state) for text in (sampled.text, rendering))
    common = list(_common(reader, sampled.text, said, rendering, shown))
    trials = 0
    for place, tokens in reversed(sampled.boundaries):
        for begin, end, begin_shown in common:
            if begin <= place <= end:
                at = begin_shown + place - begin
                both = sampled.text[:place] + rendering[at:]
                if reader.values(both, state) == meaning:
                    return Cut(tokens, at)
                trials += 1
                break
        if trials == _TRIALS:
            break
    return None


def _common(
    reader: TurnReader, text: str, said: list[Stretch], rendering: str, shown: list[Stretch]
) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, begin in the rendering) of what both texts spell the same."""
    for mine, other in zip(said, shown, strict=False):
        opening = text[mine.opened : mine.begin]
        if mine.state != other.state or opening != rendering[other.opened : other.begin]:
            return
        yield mine.opened, mine.begin, other.opened
        if mine.state == CALL:
            is_equal = reader.value(mine) == reader.value(other)
        else:
            own, others = mine.text.strip(), other.text.strip()
            begin = mine.begin + _indent(mine.text)
            same = common_prefix(own, others)
            yield begin, begin + same, other.begin + _indent(other.text)
            is_equal = own == others
        if not is_equal:
            return
        if text[mine.end : mine.closed] == rendering[other.end : other.closed]:
            yield mine.end, mine.closed, other.end


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())
