"""The synthetic models by name, each created at its first use.

[bench]
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_worker.bench.synthetic.folder import make_folder
from mlx_worker.bench.synthetic.llama import LLAMA, NANO, SLOW, TINY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTEXT = 32_768
"""Positions of the models synthetic here: room for the longest prompts and for long answers."""


@contextlib.contextmanager
def models(given: Path | None = None) -> Iterator[Callable[[str], Path]]:
    """Return the folder for a name: the given one for all, else a synthetic model's."""
    if given is not None:
        yield lambda _name: given
        return
    with tempfile.TemporaryDirectory(prefix="mlx-worker-bench-") as root:

        @cache
        def synthetic(name: str) -> Path:
            spec = replace({"nano": NANO, "tiny": TINY, "slow": SLOW}[name], context=CONTEXT)
            return make_folder(spec, LLAMA, Path(root) / name)

        yield synthetic
