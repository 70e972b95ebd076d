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
from mlx_worker.bench.synthetic.llama import DEAF_LLAMA, LLAMA, NANO, REPEATING, SLOW, TINY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlx_worker.bench.synthetic.family import Family, Spec

SYNTHETIC: Mapping[str, tuple[Spec, Family]] = {
    "nano": (NANO, LLAMA),
    "tiny": (TINY, LLAMA),
    "slow": (SLOW, LLAMA),
    "repeating": (REPEATING, DEAF_LLAMA),
}

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
            spec, family = SYNTHETIC[name]
            return make_folder(replace(spec, context=CONTEXT), family, Path(root) / name)

        yield synthetic
