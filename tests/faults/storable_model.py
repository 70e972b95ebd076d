"""The llama that fails when it is told to, with the KV that every llama has.

`failing_model`'s own KV can fail too, and is of a class that is never kept on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_lm.models import llama
from mlx_lm.models.cache import KVCache

from tests.faults import failing_model

if TYPE_CHECKING:
    import mlx.core as mx

MODULE: Final = "mlx_lm.models.storable"
"""Where mlx_lm looks for the class of a model whose `model_type` is "storable"."""

ModelArgs = failing_model.ModelArgs


class Model(failing_model.Model):
    """The llama whose KV can be kept on disk.

    Steps without KV are those that a load measures: only steps behind a prompt count and fail, so
    that a fault that waits for the next process meets its first step of an answer.
    """

    def make_cache(self) -> list[KVCache]:
        return [KVCache() for _ in self.layers]

    def __call__(self, inputs: mx.array, cache: Any = None, **more: Any) -> mx.array:
        if inputs.shape[1] == 1 and (cache is None or not cache[0].size()):
            logits: mx.array = llama.Model.__call__(self, inputs, cache=cache, **more)
            return logits
        return super().__call__(inputs, cache=cache, **more)
