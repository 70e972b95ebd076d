"""A llama that fails when it is told to: garbage logits, errors of mlx, at a call or in its KV.

It takes the place of a device that fails, which no machine without Metal has. In a child it is told
by a file (see `failing_child`), in a test by `SCRIPT`. It can also wait at a step until its process
ends: a test that kills the process then meets an answer that has begun and is not over, however
fast the machine is.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx_lm.models import llama
from mlx_lm.models.cache import BatchKVCache, KVCache

FOLDER: Final = "MLX_WORKER_FAILING"
"""In a child's environment: the folder where `FILE` appears when the child is to fail."""
FILE: Final = "fault.json"
HELD: Final = "held"
"""The file that appears beside it once a child waits for its end."""
MODULE: Final = "mlx_lm.models.failing"
"""Where mlx_lm looks for the class of a model whose `model_type` is "failing"."""

WORDS: Final = "[METAL] Command buffer execution failed: made for a test"

HOLD: Final = "hold"


@dataclass
class ModelArgs(llama.ModelArgs):  # type: ignore[misc]
    """A llama's, and `ballast`: rows of a matrix that each pass squares, however wide the pass is.

    A pass then takes as long for several tokens as for one, as where a model waits for its weights.
    """

    ballast: int = 0


@dataclass(frozen=True)
class Fault:
    """What fails: `where` a decode step, a chunk of a prompt, or the KV; the how-manieth time.

    In a step `kind` says what becomes of the logits of `row` (None: of all rows), that an "error"
    is raised, or that the process is "killed". With `late` an error is raised that many steps
    later, and until then the logits are merely wrong. With "hold" nothing more happens before the
    process ends. Steps of fewer than `rows` are not counted. `again`: every process that meets it
    has it. A "pass" is a step or a chunk, and kills the process.
    """

    where: str = "step"
    kind: str = "error"
    at: int = 0
    row: int | None = None
    late: int = 0
    rows: int = 1
    again: bool = False


class Script:
    """The fault that waits, and what was counted since it was set."""

    def __init__(self) -> None:
        self._fault: Fault | None = None
        self._counts: dict[str, int] = {}
        self.befell = 0

    def set(self, fault: Fault | None) -> None:
        self._fault, self._counts, self.befell = fault, {}, 0

    def reached(self, where: str, rows: int = 1) -> int | None:
        """Count one more of these. How many behind the fault's place is it? None: no fault here."""
        self._look()
        fault = self._fault
        if fault is None or fault.where != where or rows < fault.rows:
            return None
        count = self._counts[where] = self._counts.get(where, -1) + 1
        return count - fault.at

    def fail(self, where: str) -> None:
        """Raise, or wait for the end of the process, if this is the time."""
        if self.reached(where) == 0:
            self._hold_if_told()
            self.befell += 1
            raise RuntimeError(WORDS)

    def disturbed(self, logits: mx.array) -> mx.array:
        """What comes of the logits (rows, 1, vocabulary) of a step."""
        behind, fault = self.reached("step", logits.shape[0]), self._fault
        if behind is None or fault is None:
            return logits
        if behind == 0:
            self._hold_if_told()
        if behind == fault.late and fault.kind == "error":
            self.befell += 1
            raise RuntimeError(WORDS)
        if behind != 0:
            return logits
        if fault.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind != "error":
            self.befell += 1
        places = slice(None) if fault.row is None else fault.row % logits.shape[0]
        garbage = mx.array(logits)
        garbage[places] = SPOILT[fault.kind](logits[places])
        return garbage

    def _hold_if_told(self) -> None:
        if self._fault is not None and self._fault.kind == HOLD:
            Path(os.environ[FOLDER], HELD).touch()
            threading.Event().wait()

    def _look(self) -> None:
        if self._fault is None and FOLDER in os.environ:
            file = Path(os.environ[FOLDER], FILE)
            if file.exists():
                self._fault = Fault(**json.loads(file.read_text()))
                if not self._fault.again:
                    file.unlink()


def _with_one(value: float) -> Any:
    def spoil(logits: mx.array) -> mx.array:
        spoilt = mx.array(logits)
        spoilt[..., logits.shape[-1] // 3] = value
        return spoilt

    return spoil


SPOILT: Final[dict[str, Any]] = {
    "zeros": mx.zeros_like,
    "equal": lambda logits: mx.full(logits.shape, 3.7, dtype=logits.dtype),
    "nan": lambda logits: mx.full(logits.shape, mx.nan, dtype=logits.dtype),
    "inf": lambda logits: mx.full(logits.shape, mx.inf, dtype=logits.dtype),
    "none": lambda logits: mx.full(logits.shape, -mx.inf, dtype=logits.dtype),
    "one nan": _with_one(mx.nan),
    "one inf": _with_one(mx.inf),
    # Plausible, and wrong: the tokens change places.
    "error": lambda logits: logits[..., ::-1],
    # An error of mlx's own, on its own thread, while the step is computed.
    "parked": lambda logits: logits + mx.linalg.inv(mx.zeros((2, 2)))[0, 0],
}
GARBAGE: Final = [kind for kind in SPOILT if kind not in ("error", "parked")]

SCRIPT: Final = Script()


class FailingKv(KVCache):  # type: ignore[misc]
    """KV that may fail to be copied or cut."""

    def __deepcopy__(self, memo: dict[int, Any]) -> FailingKv:
        SCRIPT.fail("copy")
        copied = FailingKv()
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def trim(self, n: int) -> int:
        SCRIPT.fail("trim")
        return int(super().trim(n))

    @classmethod
    def merge(cls, caches: list[Any]) -> Any:
        SCRIPT.fail("merge")
        merged = BatchKVCache.merge(caches)
        merged.__class__ = FailingBatchKv
        return merged


class FailingBatchKv(BatchKVCache):  # type: ignore[misc]
    """KV of a batch that a row may fail to be taken from."""

    def extract(self, idx: int) -> Any:
        SCRIPT.fail("extract")
        row = super().extract(idx)
        row.__class__ = FailingKv
        return row


class Model(llama.Model):  # type: ignore[misc]
    """The llama."""

    def __init__(self, args: Any) -> None:
        SCRIPT.fail("load")
        super().__init__(args)
        self._ballast = mx.ones((args.ballast, args.ballast))

    def make_cache(self) -> list[FailingKv]:
        return [FailingKv() for _ in self.layers]

    def __call__(self, inputs: mx.array, cache: Any = None, **more: Any) -> mx.array:
        if SCRIPT.reached("pass", inputs.shape[0]) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if inputs.shape[1] > 1:
            SCRIPT.fail("prefill")
        if self._ballast.size:
            mx.eval(self._ballast @ self._ballast)
        logits: mx.array = super().__call__(inputs, cache=cache, **more)
        return logits if inputs.shape[1] > 1 else SCRIPT.disturbed(logits)
