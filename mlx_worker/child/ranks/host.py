"""What a rank finds on its own host: the model's folder, and room for its part.

The front has looked at its own host only. [child]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import psutil

from mlx_worker.child.working_set import working_set
from mlx_worker.config.sizes import MODELS_SHARE, MemoryLimit, in_words
from mlx_worker.engine.loading import weight_bytes
from mlx_worker.errors import UnservableModel
from mlx_worker.models.store import default_models_dir, locate

if TYPE_CHECKING:
    from mlx_worker.wire.messages import Load
    from mlx_worker.wire.rank_place import HostSettings, RankPlace


def folder_on_host(load: Load, place: RankPlace) -> Path:
    """Return the model's folder. Raises ModelNotFoundError or BadModelFolder."""
    if place.settings is None:
        return Path(load.path)
    models_dir = place.settings.models_dir
    where = Path(models_dir).expanduser() if models_dir else default_models_dir()
    return locate(load.path, where, Path.home())


def room_for_kv(model: Any, settings: HostSettings | None) -> int | None:
    """Return the bytes that a part, whose weights are not read yet, leaves for KV on its host.

    None: the front knows. Raises UnservableModel with the numbers if the part has no room.
    """
    if settings is None:
        return None
    limit = MemoryLimit(settings.memory_limit or MODELS_SHARE).of(psutil.virtual_memory().total)
    limit = min(limit, working_set(mx.device_info()) or limit)
    process = psutil.Process().memory_info().rss
    part = weight_bytes(model)
    if process + part > limit:
        raise UnservableModel(
            f"its part of the weights has {in_words(part)}, the process {in_words(process)}, and"
            f" models may take {in_words(limit)} there"
        )
    return limit - process - part
