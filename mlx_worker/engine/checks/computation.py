"""Whether results of the device may be used: the evidence of a step, and fatal errors.

Since mlx 0.32 a failed Metal command buffer is an exception that may come late: the evaluation
before it "succeeds", with output that was never written. So each row of logits brings evidence
along, which is read together with the token: its smallest log-probability. A row that is all equal
(never written: zeros) or holds a NaN or a positive infinity was not computed. Models write a
negative infinity for tokens that they rule out.

The evidence is of the model's own logits, before penalties, biases and grammars. Not seen is what
is wrong and looks plausible: logits from KV that was never written, or a row of which only a part
is missing. For those there is the exception that mlx raises, and that a frame waits for on a GPU.
[child]
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Final

import mlx.core as mx

from mlx_worker.errors import WorkerError, cause_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator


TOLERANCE: Final = {mx.float32: 2.0**-20, mx.float16: 2.0**-10, mx.bfloat16: 2.0**-7}
"""The rounding error of a log-probability, relative to the numbers that were subtracted."""


class ComputationFailed(Exception):
    """Report that the device or mlx failed: nothing that this engine holds may be used again.

    Not a `WorkerError`: no request is answered with this error. The process ends instead.
    """


class Evidence:
    """Tell whether the rows of one step were computed.

    `logprobs` are the logits less `normalizers`, their log-sum-exps. The smallest of a row is
    `-log(vocabulary)` if all are equal, and less than that by far in any row that was computed.
    """

    __slots__ = ("_normalizers", "_rows", "_uniform", "least")

    def __init__(self, rows: list[int], logprobs: mx.array, normalizers: mx.array) -> None:
        self._rows = rows
        self._uniform = -math.log(logprobs.shape[-1])
        self._normalizers = normalizers
        self.least = mx.min(logprobs, axis=-1)
        """What is to be evaluated together with the step's tokens."""

    def check(self, present: Collection[int]) -> None:
        """Raise ComputationFailed where a row was not computed that is still among `present`.

        The step is to have been evaluated.
        """
        least: list[float] = self.least.tolist()  # type: ignore[assignment]
        surely = 2 * self._uniform - 1  # 16 bits may round by as much
        # Not true of a NaN.
        doubtful = [place for place, value in enumerate(least) if not -math.inf < value < surely]
        if not doubtful:
            return
        # Part of the step, so this waits for nothing; read where there is doubt alone.
        normalizers: list[list[float]] = self._normalizers.tolist()  # type: ignore[assignment]
        for place in doubtful:
            (normalizer,) = normalizers[place]
            is_good = math.isfinite(normalizer) and not self._is_flat(normalizer, least[place])
            if not is_good and self._rows[place] in present:
                raise ComputationFailed(
                    f"garbage logits: a row's log-sum-exp is {normalizer:g}, "
                    f"its smallest log-probability {least[place]:g}"
                )

    def _is_flat(self, normalizer: float, least: float) -> bool:
        slack = TOLERANCE[self._normalizers.dtype] * (abs(normalizer) - self._uniform)
        return abs(least - self._uniform) <= slack


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Make every error in this block fatal, except errors of a request itself.

    mlx raises RuntimeError, ValueError and MemoryError for its device as for its arguments. The
    fields of a request are checked before, so that every other error here is mlx's.
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
