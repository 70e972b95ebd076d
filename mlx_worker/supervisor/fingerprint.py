"""What an answer hangs on besides its request: weights, versions, configured prompts. [front]"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import mlx_worker

if TYPE_CHECKING:
    from mlx_worker.config import ModelConfig
    from mlx_worker.supervisor.child import Facts


def prompting(model: ModelConfig) -> str:
    """Return what a configuration adds to the prompts of requests; "" for nothing."""
    added = (model.system_prompt, model.chat_template_kwargs)
    return repr(added) if any(added) else ""


def fingerprint(facts: Facts, prompted: str = "") -> str:
    """A short name of all, as a child last told the first two: `fp_` and 12 hex digits."""
    versions = facts.versions | {"mlx-worker": mlx_worker.__version__}
    weights = facts.loaded.weights if facts.loaded else ""
    return _named(weights + prompted, tuple(sorted(versions.items())))


@lru_cache
def _named(weights: str, versions: tuple[tuple[str, str], ...]) -> str:
    """Asked for by every request."""
    known = f"{weights} {list(versions)}"
    return f"fp_{hashlib.sha256(known.encode()).hexdigest()[:12]}"
