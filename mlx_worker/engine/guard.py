"""Whether what the device computed may be used: the evidence of a step, and what ends the engine.

Since mlx 0.32 a failed Metal command buffer is an exception that may come late: the evaluation
before it "succeeds", with output that was never written. So each row of logits brings evidence
along, which is read together with the token: its log-sum-exp, which sampling needs anyway, and a
few of its values. A row that is all equal (never written: zeros) or holds a NaN or a positive
infinity was not computed. A negative infinity is what models write for tokens that they rule out.

The evidence is of the model's own logits, before penalties, biases and grammars. A row is flat if
the probed values are equal and the log-sum-exp is what equal logits make: either alone may happen
to a good row, as where a head has rows of zeros. Not seen is what is wrong and looks plausible:
logits from KV that was never written, or a row of which only a part is missing. For those there is
the exception that mlx raises, and that a frame waits for one step longer. [child]
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Final

import mlx.core as mx

from mlx_worker.errors import WorkerError, cause_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


PROBES: Final = 4
"""Logits of a row that are compared with each other, at least."""

TOLERANCE: Final = {mx.float32: 1e-5, mx.float16: 2.0**-9, mx.bfloat16: 2.0**-6}
"""How far a log-sum-exp may lie from the exact value, relatively: some roundings of its type."""


class ComputationFailed(Exception):
    """The device, or mlx on its behalf, failed: nothing that this engine holds may be used again.

    Not a `WorkerError`: no request is answered with this error. The process ends instead.
    """


class Evidence:
    """What tells whether the rows of one step were computed, with the rows' ids.

    `logprobs` are the logits less `normalizers`, their log-sum-exps. Of each row a few are read,
    and the log-sum-exp only where those leave a doubt: a second array costs as much as the first.
    """

    __slots__ = ("_normalizers", "_rows", "_width", "probes")

    def __init__(self, rows: list[int], logprobs: mx.array, normalizers: mx.array) -> None:
        self._rows = rows
        self._width = width = logprobs.shape[-1]
        self._normalizers = normalizers
        self.probes = logprobs[:, :: width // PROBES or 1]
        """What is to be evaluated together with the step's tokens."""

    def check(self, present: Collection[int]) -> None:
        """Raise ComputationFailed where a row was not computed that is still among `present`.

        The step is to have been evaluated.
        """
        probes: list[list[float]] = self.probes.tolist()  # type: ignore[assignment]
        for place, probed in enumerate(probes):
            first, last = probed[0], probed[-1]
            # Neither is true where one is a NaN, nor where the row has an infinite log-sum-exp.
            if first < last or first > last:
                continue
            self._look_closely(place, probed, present)

    def _look_closely(self, place: int, probed: list[float], present: Collection[int]) -> None:
        # As a whole: to cut one out would be new work, which waits for the step on its way.
        normalizers: list[list[float]] = self._normalizers.tolist()  # type: ignore[assignment]
        (normalizer,) = normalizers[place]
        is_good = math.isfinite(normalizer) and not self._is_flat(normalizer, probed)
        if not is_good and self._rows[place] in present:
            raise ComputationFailed(
                f"garbage logits: a row's log-sum-exp is {normalizer:g}, "
                f"some of its {self._width} log-probabilities are {probed}"
            )

    def _is_flat(self, normalizer: float, probed: list[float]) -> bool:
        """Return True if all logits of a row have the value that the probed ones have."""
        slack = TOLERANCE[self._normalizers.dtype] * max(1.0, abs(normalizer))
        is_uniform = abs(probed[0] + math.log(self._width)) <= slack
        return is_uniform and all(it == probed[0] for it in probed)


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Have every error in this block be fatal, but for those that are a request's own.

    mlx raises RuntimeError, ValueError and MemoryError, for its device as for its arguments: what a
    request asks for is checked before, and everything else that goes wrong here is mlx's.
    """
    try:
        yield
    except (WorkerError, ComputationFailed):
        raise
    except (RuntimeError, MemoryError) as error:
        raise ComputationFailed(cause_of(error)) from error
    except Exception as error:
        # The text of another error may quote what was asked.
        raise ComputationFailed(type(error).__name__) from error
