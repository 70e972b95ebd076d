"""A folder to a draft model: checks that its tokens are the model's own, and what it costs.

[child]
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_tokenizer

from mlx_worker.engine.batch_support import logit_count
from mlx_worker.engine.kv.cost import measure_kv_cost
from mlx_worker.engine.loading import read_model, weight_bytes
from mlx_worker.engine.speculation.draft_model import DraftModel
from mlx_worker.engine.speculation.ladder import WIDTHS, WORTH, Ladder, fastest_pass, measure_ladder
from mlx_worker.errors import BadModelFolder, cause_of
from mlx_worker.wire.kv_cost import KvCost

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NO_KV: Final = KvCost()
PIECE: Final = 64
"""Tokens of a prompt by which the speed of reading is measured."""


@dataclass(frozen=True, slots=True)
class LoadedDraft:
    """Hold a draft model; `model` None: `because` says why nothing is drafted by it.

    `kv` is what its KV of a row costs. `ladder` has its measured passes.
    """

    model: DraftModel | None = None
    because: str = ""
    kv: KvCost = NO_KV
    weight_bytes: int = 0
    ladder: Ladder | None = None


def load_draft(
    folder: Path,
    loaded: tuple[Any, Any],
    ladder: Ladder,
    rows: int,
    dtype: str = "",
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> LoadedDraft:
    """Load the draft model of `loaded`, a model and its tokenizer, if it can make that faster.

    `ladder` has the passes of the model, which decodes up to `rows` rows. Raises BadModelFolder for
    a tokenizer that differs, and what `read_model` raises.
    """
    check_tokenizer(loaded[1], folder)
    if ladder.because:
        return LoadedDraft(because="the model drafts nothing")
    model, _, context_length = read_model(folder, dtype=dtype)
    own = measure_ladder(model, rows, clock=clock)
    if not own.seconds:
        return LoadedDraft(because=own.because)
    draft = DraftModel(model, own, logit_count(loaded[0]), context_length, _read_cost(model, clock))
    gain = max(
        width * ladder.cost(1, 1) / (ladder.cost(1, width) + draft.cost(1, width - 1))
        for width in WIDTHS[1:]
    )
    if gain < WORTH:
        because = f"with right drafts only, decoding would be {gain:.2g} times as fast"
        return LoadedDraft(because=because, ladder=own)
    return LoadedDraft(draft, "", measure_kv_cost(model), weight_bytes(model), own)


def _read_cost(model: Any, clock: Callable[[], float]) -> float:
    """Return the seconds that the model takes for a token of a prompt."""
    cache = make_prompt_cache(model)
    return fastest_pass(model, mx.zeros((1, PIECE), dtype=mx.int32), cache, clock) / PIECE


def check_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Raise BadModelFolder if the model in this folder has other tokens, or the same by other ids.

    The message names the first one that differs.
    """
    try:
        drafted = load_tokenizer(folder).get_vocab()
    except Exception as error:
        # transformers raises nearly anything for a folder without a sound tokenizer.
        raise BadModelFolder(f"draft: no tokenizer in {folder}: {cause_of(error)}") from error
    own = tokenizer.get_vocab()
    if own == drafted:
        return
    first = min(
        (token for token in own.keys() | drafted.keys() if own.get(token) != drafted.get(token)),
        key=lambda token: (
            min(own.get(token, len(own)), drafted.get(token, len(drafted))),
            own.get(token, len(own)),
        ),
    )
    ids = [f"has the id {ids[first]}" if first in ids else "is missing" for ids in (drafted, own)]
    raise BadModelFolder(
        f"draft: {folder} has another tokenizer: the token {first!r} {ids[0]} there, "
        f"and {ids[1]} in the model's own"
    )
