"""What drafts gain: the same answers with and without them, in turn, and the ladder of the model.

For contributors: `python -m tests.tools.speculation_gain [--models tiny FOLDER] [--rows 1 2 4]
[--float32] [--draft FOLDER]` on a machine that does nothing else. Prints two Markdown tables:
forward passes by rows and width, and tokens/s with drafts by tokens/s without: of the fastest runs,
which are those that nothing disturbed, and the median of the rounds.

- edit: the prediction is the answer with one token of thirty changed.
- repeat: the prompt has the text that the answer begins with, in other places.
- prose: sampled, and nothing is known of the answer.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import click
import mlx.core as mx
from mlx.utils import tree_map

from mlx_worker.engine.loading import read_model
from mlx_worker.engine.speculation.draft_loading import LoadedDraft, load_draft
from mlx_worker.engine.speculation.ladder import ROWS, WIDTHS, Ladder, measure_ladder
from mlx_worker.wire.request import ChatRequest, EndConditions, Sampling
from tests.drafting_harness import Row, begin_in, new_engine, play, with_mistakes
from tests.synthetic_models import make

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.engine.speculation.draft_model import DraftModel
    from tests.drafting_harness import Played

TEXT: Final = (
    "The river rises in the hills and runs through three towns before it meets the sea. In spring"
    " the water is high, and boats wait at the old bridge until the evening."
)
TRACES: Final = ("edit", "repeat", "prose")


def row_of(tokenizer: Any, loaded: tuple[Any, Any], trace: str, number: int, tokens: int) -> Row:
    """Return a request of a trace; `number` tells requests of one batch apart."""
    ends = EndConditions(ignore_eos=True)
    prompt = tuple(tokenizer.encode(f"{number}. {TEXT} What happened next?"))
    if trace == "prose":
        sampling = Sampling(seed=number, temperature=0.8, top_p=0.95)
        return Row(ChatRequest([], sampling, tokens, ends=ends), prompt)
    row = Row(ChatRequest([], Sampling(seed=0), tokens, ends=ends), prompt)
    answer = play(loaded, [row], None).results[0].tokens
    if trace == "edit":
        return Row(row.request, prompt, with_mistakes(answer, number, share=1 / 30))
    # The first half of the answer stands in front of the prompt, and is said once more.
    return Row(row.request, (*answer, *prompt, *answer[:8]))


def seconds_of(played: Played) -> float:
    """Return the seconds from the first token of all rows to the last token."""
    while any(not result.outputs for result in played.results):
        played.step()
    begun = time.perf_counter()
    before = sum(len(result.tokens) for result in played.results)
    played.finish()
    took = time.perf_counter() - begun
    return took / (sum(len(result.tokens) for result in played.results) - before)


def ratio(
    loaded: tuple[Any, Any],
    rows: list[Row],
    ladder: Ladder,
    rounds: int,
    draft_model: DraftModel | None,
) -> tuple[float, list[float], float]:
    """Return tokens/s without drafts, ratios, and the share of right drafts.

    The first ratio is of the fastest runs of both kinds, the others are of each round.
    """
    took: dict[bool, list[float]] = {False: [], True: []}
    engines = {
        drafts: new_engine(loaded, ladder if drafts else None, len(rows), draft_model)
        for drafts in (False, True)
    }
    chance = random.Random(len(rows))
    for _ in range(rounds):
        order = [False, True]
        chance.shuffle(order)
        for drafts in order:
            took[drafts].append(seconds_of(begin_in(engines[drafts], rows)))
    rounds_ = [without / drafts for without, drafts in zip(*took.values(), strict=True)]
    ratios = [min(took[False]) / min(took[True]), *rounds_]
    known = engines[True].speculation
    return 1 / min(took[False]), ratios, known.accepted / max(1, known.drafted)


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["nano", "tiny"], help="or folders")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--traces", nargs="+", choices=TRACES, default=TRACES)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--float32", action="store_true", help="use the weights in float32")
    parser.add_argument("--draft", type=Path, help="folder of a draft model")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    gc.disable()
    for name in chosen.models:
        with tempfile.TemporaryDirectory() as folder:
            own = Path(name)
            model, tokenizer, _ = read_model(
                own if own.is_dir() else make(name, Path(folder) / name)
            )
        if chosen.float32:
            model.update(tree_map(lambda array: array.astype(mx.float32), model.parameters()))
        begun = time.perf_counter()
        ladder = measure_ladder(model, max(ROWS))
        took = time.perf_counter() - begun
        click.echo(f"\n{own.name}: ladder measured in {took:.2f} s. {ladder.because}\n")
        click.echo("| rows | " + " | ".join(f"{width} wide (ms)" for width in WIDTHS) + " |")
        click.echo("|---" * (1 + len(WIDTHS)) + "|")
        for rows in sorted({count for count, _ in ladder.seconds}):
            known = [ladder.seconds.get((rows, width)) for width in WIDTHS]
            cells = ["" if value is None else f"{value * 1e3:.2f}" for value in known]
            click.echo(f"| {rows} | " + " | ".join(cells) + " |")
        click.echo(
            "\n| trace | rows | tokens/s without | ratio | median of rounds | right drafts |"
        )
        click.echo("|---|---|---|---|---|---|")
        loaded = (model, tokenizer)
        draft = LoadedDraft()
        if chosen.draft:
            draft = load_draft(chosen.draft, loaded, ladder, max(ROWS))
            click.echo(f"\nno draft model: {draft.because}" if draft.because else "")
        for trace in chosen.traces:
            for rows in chosen.rows:
                asked = [
                    row_of(tokenizer, loaded, trace, number, chosen.tokens)
                    for number in range(rows)
                ]
                alone, (best, *others), right = ratio(
                    loaded, asked, ladder, chosen.rounds, draft.model
                )
                click.echo(
                    f"| {trace} | {rows} | {alone:.0f} | {best:.2f} | {median(others):.2f} |"
                    f" {right:.0%} |"
                )


if __name__ == "__main__":
    main()
