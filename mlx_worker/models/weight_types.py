"""The floating-point type in which a model's weights are held, and their bytes in that type.

mlx's kernels for a CPU are slow in 16 bits: only products in float32 go to a BLAS, and quantized
products in float32 take a sixth of the time. Pure. [front]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

if TYPE_CHECKING:
    from mlx_worker.config.schema.model_types import WeightType
    from mlx_worker.models.folder import ModelFolder


@dataclass(frozen=True, slots=True)
class WeightTypes:
    """What `dtype = "auto"` means on this machine.

    `prefers_float32`: models compute on a CPU with a fast BLAS. `limit` are the bytes that all
    models may take together.
    """

    prefers_float32: bool = False
    limit: int = 0

    def applied_to(self, folder: ModelFolder, dtype: WeightType = "auto") -> ModelFolder:
        """Return the folder with the type and the bytes that its weights have in memory.

        `dtype` is the type that the configuration asks for.
        """
        if dtype == "auto" and self._is_worth_float32(folder):
            dtype = "float32"
        if dtype == "float32":
            nbytes = folder.weight_bytes + folder.half_bytes
        elif dtype == "bfloat16":
            nbytes = folder.weight_bytes - folder.single_bytes // 2
        else:
            return folder
        return replace(folder, dtype=dtype, weight_bytes=nbytes)

    def _is_worth_float32(self, folder: ModelFolder) -> bool:
        """Return True where float32 is faster and leaves half of the memory to KV and others."""
        is_larger = folder.half_bytes > 0
        fits = 2 * (folder.weight_bytes + folder.half_bytes) <= self.limit
        return self.prefers_float32 and is_larger and fits


AS_STORED: Final = WeightTypes()
"""As the files have the weights, unless the configuration says otherwise."""
