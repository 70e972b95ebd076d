"""What an answer hangs on besides its request: weights and versions. [front]"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import mlx_worker

if TYPE_CHECKING:
    from mlx_worker.supervisor.child import Facts


def fingerprint(facts: Facts) -> str:
    """A short name of both, as a child last told them: `fp_` and 12 hex digits."""
    versions = facts.versions | {"mlx-worker": mlx_worker.__version__}
    weights = facts.loaded.weights if facts.loaded else ""
    return _named(weights, tuple(sorted(versions.items())))


@lru_cache
def _named(weights: str, versions: tuple[tuple[str, str], ...]) -> str:
    """Asked for by every request."""
    known = f"{weights} {list(versions)}"
    return f"fp_{hashlib.sha256(known.encode()).hexdigest()[:12]}"
