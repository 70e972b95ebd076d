"""Sampling of the next token, by counter instead of by state.

The draw for position i of a request uses a key made of (seed, i) and nothing else, so one seed
gives one answer whatever else is in the batch, and a sequence continued from token i draws what it
would have drawn. The filters (top-p, min-p, top-k) and the penalties are mlx_lm's own, in
mlx_lm's order; only the global random state is replaced. Rows with the same settings are sampled in
one call, each with its own key, so that the grouping changes no result. [child]
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    make_logits_processors,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.engine.limits.thinking_budget import ThinkingBudget
    from mlx_worker.engine.output.prompt_scores import PromptScorer
    from mlx_worker.engine.speculation.drafter import Drafter
    from mlx_worker.engine.structured.constraint import Constraint
    from mlx_worker.wire.request import Sampling

Settings = tuple[float, float, float, int]
"""Temperature, top-p, min-p, top-k."""

GREEDY: Final[Settings] = (0.0, 1.0, 0.0, 0)


def key_seed(seed: int, position: int) -> int:
    """Return 64 bits that depend on (seed, position) and on nothing else."""
    counter = seed.to_bytes(8, "little") + position.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(counter, digest_size=8).digest(), "little")


class RowSampler:
    """Sample the tokens of one row, from `position` on; one call is one position.

    `reports`: the log-probabilities are returned to the client. `constraint` limits which tokens
    may be sampled. `budget` forces tokens in place of sampled ones. `scorer` takes the logits of
    the prompt's own tokens.
    """

    def __init__(
        self,
        sampling: Sampling,
        vocabulary: int,
        position: int = 0,
        *,
        reports: bool = False,
        constraint: Constraint | None = None,
        budget: ThinkingBudget | None = None,
        scorer: PromptScorer | None = None,
    ) -> None:
        self.drafter: Drafter | None = None
        """What drafts the row's tokens; None: the row decodes step by step."""
        self.reports = reports
        self.constraint = constraint
        self.budget = budget
        self.scorer = scorer
        self._seed = sampling.seed
        self._position = position
        greedy = sampling.temperature == 0
        top_k = max(0, min(sampling.top_k, vocabulary))
        narrow = (sampling.top_p or 1.0, sampling.min_p, top_k)
        self.settings = GREEDY if greedy else (sampling.temperature, *narrow)
        """What all rows share that are sampled in the same call."""

    def key(self) -> list[int]:
        """Return the next position's key, as mlx has keys: two words."""
        key = key_seed(self._seed, self._position)
        self._position += 1
        return [key >> 32, key & 0xFFFFFFFF]

    def take_back(self, count: int) -> None:
        """Go back by a number of positions, whose tokens were sampled in vain."""
        if self.settings != GREEDY:  # which uses no keys
            self._position -= count

    def __call__(self, logprobs: mx.array) -> mx.array:
        """Return token ids (1,) sampled from log-probabilities (1, vocabulary)."""
        return sample_rows(logprobs, [self])


def sample_rows(logprobs: mx.array, rows: Sequence[RowSampler]) -> mx.array:
    """Return token ids (rows,) sampled from log-probabilities (rows, vocabulary)."""
    groups: dict[Settings, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.settings, []).append(place)
    if len(groups) == 1:
        return _drawn(logprobs, rows)
    drawn = [
        _drawn(logprobs[mx.array(group)], [rows[place] for place in group])
        for group in groups.values()
    ]
    places = [place for group in groups.values() for place in group]
    back = sorted(range(len(places)), key=places.__getitem__)
    return mx.concatenate(drawn)[mx.array(back)]


def _drawn(logprobs: mx.array, rows: Sequence[RowSampler]) -> mx.array:
    """Return token ids of rows that share their settings."""
    settings = rows[0].settings
    if settings == GREEDY:
        return mx.argmax(logprobs, axis=-1)
    temperature, top_p, min_p, top_k = settings
    if 0 < top_p < 1:
        logprobs = apply_top_p(logprobs, top_p)
    if min_p > 0:
        logprobs = apply_min_p(logprobs, min_p, 1)
    if 0 < top_k < logprobs.shape[-1]:
        logprobs = apply_top_k(logprobs, top_k)
    keys = mx.array([row.key() for row in rows], dtype=mx.uint32)
    return _categorical(logprobs * (1.0 / temperature), keys)


_categorical = mx.vmap(lambda logits, key: mx.random.categorical(logits, key=key))
"""Each row with a key of its own: (rows, vocabulary) and (rows, 2) in, (rows,) out."""


def make_processors(sampling: Sampling) -> list[Any]:
    """Return mlx_lm's logits processors for a request's penalties and biases; mostly none."""
    return make_logits_processors(  # type: ignore[no-any-return]
        logit_bias=sampling.logit_bias or None,
        repetition_penalty=sampling.repetition_penalty
        if sampling.repetition_penalty not in (0, 1)
        else None,
        presence_penalty=sampling.presence_penalty or None,
        frequency_penalty=sampling.frequency_penalty or None,
    )
