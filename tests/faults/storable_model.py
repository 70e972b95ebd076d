"""The llama that fails when it is told to, with the KV that every llama has.

`failing_model`'s own KV can fail too, and is of a class that is never kept on disk.
"""

from __future__ import annotations

from typing import Final

from mlx_lm.models.cache import KVCache

from tests.faults import failing_model

MODULE: Final = "mlx_lm.models.storable"
"""Where mlx_lm looks for the class of a model whose `model_type` is "storable"."""

ModelArgs = failing_model.ModelArgs


class Model(failing_model.Model):
    """The llama whose KV can be kept on disk."""

    def make_cache(self) -> list[KVCache]:
        return [KVCache() for _ in self.layers]
