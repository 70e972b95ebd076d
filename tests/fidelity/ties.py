"""Places where rounding decides which token an answer has.

mlx's own BLAS rounds alike in every company, so answers are compared as they are. Another BLAS
rounds by the shape of a product. Where it is loaded, an answer may part from that of mlx_lm alone
at a tie, and is compared up to there. Ties are counted and shown; anything else is a mistake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import mlx.core as mx

from mlx_worker.engine.sampling import RowSampler
from mlx_worker.system.loaded_blas import blas_library

if TYPE_CHECKING:
    from mlx_worker.wire.request import Sampling

ROUNDS_BY_SHAPE: Final = blas_library() is not None
TIE: Final = 1e-4
"""Log-probabilities are moved by less than this: twice what another BLAS was seen to do."""
MOVES: Final = 64


def tokens_near(logprobs: mx.array, sampling: Sampling, position: int) -> set[int]:
    """Return what is sampled at a position from log-probabilities (vocabulary,) and ones near them.

    `logprobs` are those that the sampler is given, penalties included.
    """
    found: set[int] = set()
    for number in range(MOVES):
        moves = mx.random.uniform(-TIE, TIE, logprobs.shape, key=mx.random.key(number))
        sampler = RowSampler(sampling, logprobs.size, position)
        found.update(sampler((logprobs + moves)[None]).tolist())  # type: ignore[arg-type]
    return found
