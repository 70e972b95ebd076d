"""Measure whether an answer depends on how it is computed, for docs/concepts/exact.md.

Each answer is computed by mlx_lm alone, and then by the engine in four ways: alone, in a batch, on
a cached prefix, and resumed (a new engine that has the prompt and the first half of the tokens,
which is all that a killed child leaves). A process of its own computes each number format with each
BLAS, because a BLAS is preloaded.

    python -m tests.tools.exactness measure tiny --to exact.jsonl
    python -m tests.tools.exactness measure FOLDER --formats float32 --blas LIBRARY --to exact.jsonl
    python -m tests.tools.exactness table exact.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_worker.supervisor.process.launch.process import CHILD_DEFAULTS
from tests.synthetic_models import make
from tests.tools.exactness_cases import FORMATS, WAYS, Cell, Difference, measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OWN_BLAS = "mlx's own"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="measure, and append the cells to a file")
    measuring.add_argument("model", help="tiny, or a model folder")
    measuring.add_argument("--formats", default=",".join(FORMATS))
    measuring.add_argument("--ways", default=",".join(WAYS))
    measuring.add_argument("--blas", type=Path, help="a library to preload")
    measuring.add_argument("--prompts", type=int, default=8)
    measuring.add_argument("--tokens", type=int, default=32)
    measuring.add_argument("--to", type=Path, required=True)
    measuring.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    tabling = commands.add_parser("table", help="print the cells of a file as Markdown")
    tabling.add_argument("cells", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.command == "table":
        lines = chosen.cells.read_text(encoding="utf-8").splitlines()
        sys.stdout.write(table(map(read_cell, lines)))
    elif chosen.here:
        append_cells(chosen)
    else:
        for number_format in chosen.formats.split(","):
            measure_in_a_process(chosen, number_format)


def measure_in_a_process(chosen: argparse.Namespace, number_format: str) -> None:
    """Run this script again for one number format, with the BLAS preloaded."""
    command = [sys.executable, "-m", "tests.tools.exactness", "measure", chosen.model, "--here"]
    command += ["--formats", number_format, "--ways", chosen.ways, "--to", str(chosen.to)]
    command += ["--prompts", str(chosen.prompts), "--tokens", str(chosen.tokens)]
    environment = CHILD_DEFAULTS | os.environ  # as a child has it
    if chosen.blas is not None:
        command += ["--blas", str(chosen.blas)]
        environment["LD_PRELOAD"] = str(chosen.blas.resolve(strict=True))
    subprocess.run(command, check=True, env=environment)


def append_cells(chosen: argparse.Namespace) -> None:
    """Measure in this process."""
    blas = OWN_BLAS if chosen.blas is None else chosen.blas.name
    with tempfile.TemporaryDirectory() as scratch:
        made = chosen.model == "tiny"
        folder = make("tiny", Path(scratch) / "tiny") if made else Path(chosen.model)
        cells = measure(
            folder,
            chosen.formats,
            blas,
            prompts=chosen.prompts,
            tokens=chosen.tokens,
            ways=chosen.ways.split(","),
        )
        for cell in cells:
            with chosen.to.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(cell)) + "\n")


def read_cell(line: str) -> Cell:
    fields: dict[str, Any] = json.loads(line)
    differences = [Difference(**item) for item in fields.pop("differences")]
    return Cell(**fields, differences=differences)


# --- the table ----------------------------------------------------------------------------


def table(cells: Iterable[Cell]) -> str:
    """One row a model, BLAS, number format and kind of draw; one column a way of computing."""
    rows: dict[tuple[str, str, str, str], dict[str, Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.model, cell.blas, cell.format, cell.drawn), {})[cell.way] = cell
    head = ["model", "BLAS", "format", "tokens are", "closest", *WAYS]
    lines = [head, ["---"] * len(head)]
    for row, ways in rows.items():
        closest = min(cell.closest for cell in ways.values())
        cells_of_row = (described(ways.get(way)) for way in WAYS)
        lines.append([*row, f"{closest:.0e}", *cells_of_row])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def described(cell: Cell | None) -> str:
    """Equal answers of all; how far log-probabilities moved; where answers parted, how narrowly."""
    if cell is None:
        return "not measured"
    moved = "0" if cell.moved == 0 else f"{cell.moved:.0e}"
    text = f"{cell.equal} of {cell.answers} (±{moved})"
    if not cell.differences:
        return text
    first = min(difference.token for difference in cell.differences)
    widest = max(difference.margin for difference in cell.differences)
    return f"{text}, from token {first}, margins ≤ {widest:.2g}"


if __name__ == "__main__":
    main()
