"""Draw the state table of a model's process as a Mermaid diagram.

The diagram stands between two marks in `docs/concepts/architecture.md`. `tests.tools.generated`
writes it, and a test compares it with the table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mlx_worker.supervisor.process.states import TRANSITIONS, State

PAGE: Final = Path(__file__).parents[2] / "docs" / "concepts" / "architecture.md"
BEGIN: Final = "<!-- begin of the state diagram: written by `python -m tests.tools.generated` -->"
END: Final = "<!-- end of the state diagram -->"


def page() -> str:
    """Return the architecture page with the diagram of today's table."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} does not have the marks of the state diagram")
    return f"{before}{BEGIN}\n\n{diagram()}\n{END}{after}"


def diagram() -> str:
    """Return the table as Mermaid: an arrow from state to state, labelled with its events.

    Events that leave the state as it is are left out.
    """
    arrows = [f"    [*] --> {State.STOPPED.name}"]
    for state, row in TRANSITIONS.items():
        events: dict[State, list[str]] = {}
        for event, target in row.items():
            if target is not state:
                events.setdefault(target, []).append(event.name)
        arrows += [
            f"    {state.name} --> {target.name}: {', '.join(names)}"
            for target, names in events.items()
        ]
    return "\n".join(["```mermaid", "stateDiagram-v2", *arrows, "```", ""])
