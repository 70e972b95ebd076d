"""What a tool loop read in each of its turns, by the node's own table of requests."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from tests.processes import RunningNode


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a loop, in tokens; `again` were in memory after the turn before it."""

    prompt: int
    cached: int
    output: int
    again: int
    parted: str | None

    @property
    def read(self) -> int:
        """The tokens of the prompt that had to be read."""
        return self.prompt - self.cached


def requests_since(
    node: RunningNode, headers: Mapping[str, str], known: Iterable[str]
) -> list[dict[str, Any]]:
    """Return the rows of ended requests that are not known, in the order of their arrival."""
    rows = node.ask("/admin/requests", headers=headers).json["recent"]
    before = set(known)
    return sorted(
        (row for row in rows if row["id"] not in before), key=lambda row: row["startedAt"]
    )


def turns_of(rows: Iterable[Mapping[str, Any]]) -> list[Turn]:
    """Return the turns of the loop: each prompt is a little longer than the one before it.

    Agents ask for titles and the like beside the loop, in prompts that are far shorter.
    """
    turns: list[Turn] = []
    for row in rows:
        prompt, cached, output = row["promptTokens"], row["cachedTokens"], row["outputTokens"]
        if turns and prompt <= turns[-1].prompt:
            continue
        if turns and prompt > 2 * turns[-1].prompt:
            turns = []
        held = min(prompt, turns[-1].prompt + turns[-1].output) if turns else 0
        turns.append(Turn(prompt, cached, output, max(0, held - cached), row.get("parted")))
    return turns


class ReadAgain:
    """The turns of each client's loop."""

    def __init__(self) -> None:
        self._loops: dict[str, Sequence[Turn]] = {}

    def add(self, label: str, turns: Sequence[Turn]) -> None:
        """Keep the turns of a client."""
        self._loops[label] = turns

    def __bool__(self) -> bool:
        return bool(self._loops)

    def lines(self) -> Iterator[str]:
        """Yield a line for each client: what was read again in all turns, and in each."""
        for label, turns in sorted(self._loops.items()):
            again = [turn.again for turn in turns]
            prompts = sum(turn.prompt for turn in turns)
            yield (
                f"{label}: {len(turns)} turns, {prompts} prompt tokens, {sum(again)} read again:"
                f" {' '.join(map(str, again))}"
            )

    def write(self) -> None:
        """Write the turns as JSON where MLX_WORKER_CLIENTS_TURNS says."""
        if named := os.environ.get("MLX_WORKER_CLIENTS_TURNS"):
            loops = {label: [*map(asdict, turns)] for label, turns in self._loops.items()}
            Path(named).write_text(json.dumps(loops, indent=1) + "\n")
