"""The BLAS that mlx calls in this process, and how a preloaded one stays with this process.

[child]
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

PRELOADED: Final = "MLX_WORKER_PRELOADED"
"""The variable by which the front names the library that it had preloaded."""

OWN: Final = "mlx's own"

_PRODUCT: Final = "cblas_sgemm"
_NAME: Final = "mlx_worker_blas_name"


def keep_preload_from_helpers(environ: MutableMapping[str, str] = os.environ) -> None:
    """Take the front's library out of LD_PRELOAD: a compiler or helper does not need the library.

    Other libraries stay there.
    """
    ours = environ.pop(PRELOADED, None)
    if ours is None:
        return
    others = [path for path in environ.get("LD_PRELOAD", "").split(":") if path not in ("", ours)]
    if others:
        environ["LD_PRELOAD"] = ":".join(others)
    else:
        environ.pop("LD_PRELOAD", None)


def blas_library() -> Path | None:
    """Return the preloaded library that defines the products that mlx calls; None: mlx's own.

    A process finds a symbol in preloaded libraries before those that a module brings.
    """
    if sys.platform != "linux":
        return None
    try:
        product = getattr(ctypes.CDLL(None), _PRODUCT)
    except AttributeError:
        return None
    return _file_at(ctypes.cast(product, ctypes.c_void_p).value or 0)


def blas_name() -> str:
    """Return the name of the BLAS with what its rounding depends on."""
    library = blas_library()
    if library is None:
        return OWN
    try:
        name = getattr(ctypes.CDLL(str(library)), _NAME)
    except (AttributeError, OSError):
        return library.name
    name.restype = ctypes.c_char_p
    return bytes(name()).decode(errors="replace")


def _file_at(address: int) -> Path | None:
    """Return the file that is mapped at an address of this process."""
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        bounds, *_, path = line.split(maxsplit=5)
        start, _, end = bounds.partition("-")
        if int(start, 16) <= address < int(end, 16):
            return Path(path) if path.startswith("/") else None
    return None
