"""Measure what agents' next turns find cached, for docs/concepts/scheduling.md.

Random conversations of agents go through the dialects and an engine with a tiny model, for each
template once without the memory of turns and once with it.

    python -m tests.tools.agent_history --traces 100
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.agent_bench import Bench
from tests.agent_templates import FAMILIES
from tests.agent_traces import play, table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--traces", type=int, default=100, help="of each template")
    traces = parser.parse_args().traces
    rows = []
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            without, remembered = (
                play(
                    Bench(family, Path(folder) / str(remembers), remembers=remembers),
                    range(traces),
                    fresh=False,
                )
                for remembers in (False, True)
            )
        rows.append((family.name, without, remembered))
    sys.stdout.write("\n".join(table(rows)) + "\n")


if __name__ == "__main__":
    main()
