"""What the raw text of a turn means: reasoning, content and calls, each at its place in the text.

The text that a model wrote and the text that a template makes of the same turn differ in layout, in
the spelling of JSON and in the order of its keys. Both are read by the machine that reads answers,
and compared by value. Whitespace around a stretch is layout: clients and templates trim it. [child]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlx_lm.generate import TextStateMachine

from mlx_worker.engine.output.markers import CALL, CONTENT
from mlx_worker.engine.output.tool_calls import MalformedCall, parse_calls

if TYPE_CHECKING:
    from mlx_worker.engine.output.markers import Markers

Tools = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Hold the text of one state, without its markers.

    In the whole text, `begin` and `end` are its own places; `opened` is where the marker in front
    begins, and `closed` is where the marker behind ends.
    """

    state: str
    text: str
    opened: int
    begin: int
    end: int
    closed: int


class TurnReader:
    """Read raw texts of turns, as the output of one model is read; `tools` are those offered."""

    def __init__(self, markers: Markers, tools: Tools) -> None:
        self._markers = markers
        self._tools = tools

    def stretches(self, text: str, state: str) -> list[Stretch]:
        """Return the stretches of a turn that begins in `state`; whitespace alone is left out."""
        return [part for part in self._all(text, state) if part.text.strip()]

    def values(self, text: str, state: str) -> list[Any]:
        """Return what a turn means; equal turns have equal values."""
        return [self.value(stretch) for stretch in self.stretches(text, state)]

    def value(self, stretch: Stretch) -> Any:
        """Return what one stretch means."""
        if stretch.state != CALL:
            return stretch.state, stretch.text.strip()
        try:
            calls = parse_calls(self._markers.parse_call, stretch.text, self._tools)
        except MalformedCall:
            return "malformed", stretch.text.strip()
        return CALL, [(call.name, _by_value(json.loads(call.arguments))) for call in calls]

    def _all(self, text: str, state: str) -> list[Stretch]:
        machine = self._markers.machine
        if machine is None:
            return [Stretch(CONTENT, text, 0, 0, len(text), len(text))]
        left, parts = TextStateMachine.split(machine.make_state(state), text)
        _, held_back, _ = TextStateMachine.flush(left)
        last_state, last = parts[-1]
        parts[-1] = (last_state, last + held_back)
        stretches: list[Stretch] = []
        opened = begin = 0
        for place, (part_state, part) in enumerate(parts):
            end = begin + len(part)
            following = parts[place + 1][1] if place + 1 < len(parts) else None
            closed = end if following is None else end + self._marker_length(text, end, following)
            stretches.append(Stretch(part_state, part, opened, begin, end, closed))
            opened, begin = end, closed
        return stretches

    def _marker_length(self, text: str, place: int, following: str) -> int:
        """Return the length of the marker at a place, behind which `following` comes."""
        lengths = (
            len(word)
            for word in self._markers.words
            if text.startswith(word, place) and text.startswith(following, place + len(word))
        )
        return min(lengths, default=0)


def _by_value(value: Any) -> Any:
    """Return a JSON value of which equal ones compare equal, and others do not.

    Clients write 1.0 as 1, and Python takes true for 1.
    """
    if isinstance(value, dict):
        return {key: _by_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_by_value(inner) for inner in value]
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
