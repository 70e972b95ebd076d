"""The prompt cache of a model in this process: its state, warming it, clearing it.

The functions that a Python program calls. The cache is the engine's (`engine.kv.prompt_cache`), the
same one that serves in a child. All functions are thread-safe. [child]
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

from mlx_worker import inference
from mlx_worker.engine.kv.prompt_cache import CacheFacts, compute_prompt_hash
from mlx_worker.errors import CacheError, ModelNotFoundError

if TYPE_CHECKING:
    import os

__all__ = [
    "CacheManager",
    "clear_cache",
    "compute_prompt_hash",
    "get_cache_state",
    "warm_cache",
]

_guard = threading.Lock()


def get_cache_state() -> dict[str, Any]:
    """Return `{"tokens", "systemPromptHash", "lastUpdated"}` (ms) anew; 0, "", 0 before any use."""
    runtimes = inference.loaded()
    return _state(runtimes[-1].engine.cache.facts if runtimes else CacheFacts())


def _state(facts: CacheFacts) -> dict[str, Any]:
    return {
        "tokens": facts.tokens,
        "systemPromptHash": facts.system_prompt_hash,
        "lastUpdated": facts.last_updated,
    }


def warm_cache(system_prompt: str, *, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Prefill a system prompt into the KV cache, keep its KV, and return the state.

    An empty prompt is 0 tokens and the hash of the empty text. Raises ModelNotFoundError where no
    model is loaded or none is at the path, and CacheError with the cause for any other failure,
    that of loading the model included.
    """
    try:
        return _state(inference.runtime(path).warm(system_prompt))
    except ModelNotFoundError:
        raise
    except Exception as error:
        raise CacheError(f"warming failed: {error}") from error


def clear_cache() -> None:
    """Forget every cached prompt of every model; `lastUpdated` is then the present time."""
    for runtime in inference.loaded():
        runtime.clear()


class CacheManager:
    """Offer the same three functions as methods of a single object."""

    _instance: Self | None = None

    def __new__(cls) -> Self:
        """Return the single instance."""
        with _guard:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
            return cls._instance

    def get_state(self) -> dict[str, Any]:
        """Call `get_cache_state`."""
        return get_cache_state()

    def warm(self, system_prompt: str) -> dict[str, Any]:
        """Call `warm_cache`."""
        return warm_cache(system_prompt)

    def clear(self) -> None:
        """Call `clear_cache`."""
        clear_cache()
