"""The batch loop on mlx_lm's parts: prompts, sampling, text; no pipe, no HTTP.

[child]
"""

from mlx_worker.engine.file_limit_guard import import_mlx_lm

# Before any module of this package imports a part of mlx_lm.
import_mlx_lm()
