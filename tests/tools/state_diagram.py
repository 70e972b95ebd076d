"""Draw the states of a model's process, and list what leads from each to each.

They stand between two marks in `docs/concepts/architecture.md`. The drawing is that of the module
with the table. `tests.tools.generated` writes them, and a test compares them with the table. Text
needs no script: a browser that reads the documentation loads nothing from another host.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlx_worker.supervisor.process import states
from mlx_worker.supervisor.process.states import TRANSITIONS, State

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """Return the drawing, and a line with the events for each pair of states.

    Events that leave the state as it is are left out.
    """
    return "\n".join(["```text", _drawing(), "", *_lines(), "```", ""])


def _drawing() -> str:
    """Return the paragraph of the module's docstring that is drawn with lines."""
    paragraphs = (states.__doc__ or "").split("\n\n")
    return next(text.strip("\n") for text in paragraphs if "►" in text)


def _lines() -> Iterator[str]:
    for state, row in TRANSITIONS.items():
        events: dict[State, list[str]] = {}
        for event, target in row.items():
            if target is not state:
                events.setdefault(target, []).append(event.name)
        for target, names in events.items():
            yield f"{state.name:<9}► {target.name:<10}{', '.join(names)}"
