"""Import mlx_lm under any limit of open files.

`mlx_lm.utils` sets the limit to (2048, 4096) while it is imported. Where the hard limit is lower,
as in many containers, that is an error and no model can be loaded; where the limits are higher,
that lowers them for good. During the import the call is replaced by one that only raises the soft
limit, as far as the hard one allows. [child]
"""

from __future__ import annotations

import contextlib
import importlib
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def import_mlx_lm() -> None:
    """Import mlx_lm; its limits of open files cause no error."""
    with _limits_only_raised():
        importlib.import_module("mlx_lm.utils")


@contextlib.contextmanager
def _limits_only_raised() -> Iterator[None]:
    original = resource.setrlimit

    def raise_soft_limit(kind: int, wanted: tuple[int, int]) -> None:
        if kind != resource.RLIMIT_NOFILE:
            original(kind, wanted)
            return
        soft, hard = resource.getrlimit(kind)
        most = wanted[0] if hard == resource.RLIM_INFINITY else min(wanted[0], hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            original(kind, (most, hard))

    resource.setrlimit = raise_soft_limit
    try:
        yield
    finally:
        resource.setrlimit = original
