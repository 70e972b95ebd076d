"""The shim between mlx and numpy's OpenBLAS: found if it was built and tried, else built.

Its name follows from all that it was made of and tried with, so another version of numpy or mlx,
another processor or another folder of packages has another file. A file gets its name only once a
test product was right. [front]
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import platformdirs

import mlx_worker
from mlx_worker.config.schema import APP
from mlx_worker.supervisor.blas.child_blas import NoCpuBuild, NoFastBlas
from mlx_worker.system.private_folder import check_private_file, private_folder

SOURCE: Final = Path(__file__).with_name("shim.cpp")

CPU_BUILD: Final = "mlx-cpu"
"""The package with mlx's library for Linux without a GPU."""

TRIAL: Final = Path(mlx_worker.__file__).parent / "child" / "blas_trial.py"
"""The test product: what an earlier one has not tried is tried again."""

COMPILER: Final = "g++"
"""The compiler that mlx calls for its kernels on a CPU."""

FLAGS: Final = ("-std=c++17", "-O2", "-fPIC", "-shared", "-Wl,-z,now", "-Wl,-z,defs")

BUILD_SECONDS: Final = 60.0

LIBRARIES: Final = "libscipy_openblas64_*.so*"
"""numpy's own OpenBLAS: 64-bit integers, and a prefix before each name."""

_PROCESSOR: Final = Path("/proc/cpuinfo")
_KINDS: Final = ("model name", "flags", "Features", "CPU implementer", "CPU part")
"""What OpenBLAS chooses its kernels by, on x86 and on ARM."""


@dataclass(frozen=True, slots=True)
class Shim:
    """A library that a child preloads, and numpy's library behind it."""

    file: Path
    openblas: Path


def require_cpu_build(platform: str = sys.platform) -> None:
    """Raise NoCpuBuild where mlx is not the wheel for Linux that brings the reference BLAS."""
    if platform != "linux":
        raise NoCpuBuild("matrix products are the system's own")
    try:
        metadata.version(CPU_BUILD)
    except metadata.PackageNotFoundError as error:
        raise NoCpuBuild(f"the package {CPU_BUILD} is not installed: mlx has a GPU") from error


def numpy_folder() -> Path:
    """Return the folder of the libraries in numpy's wheel. Raises NoFastBlas without numpy."""
    try:
        return Path(str(metadata.distribution("numpy").locate_file("numpy.libs")))
    except metadata.PackageNotFoundError as error:
        raise NoFastBlas("numpy is not installed") from error


def find_openblas(folder: Path) -> Path:
    """Return the library in a folder of numpy's. Raises NoFastBlas where there is none."""
    found = sorted(folder.glob(LIBRARIES))
    if not found:
        raise NoFastBlas(f"numpy brings no OpenBLAS ({folder / LIBRARIES})")
    return found[0].resolve()


def shim_of(openblas: Path) -> Shim:
    """Return where the shim for this library lies or would lie, in a folder of this user's own.

    Raises NoFastBlas where there can be no such folder.
    """
    try:
        folder = private_folder(platformdirs.user_cache_path(APP) / "blas")
        return Shim(folder / f"shim-{_key(openblas)}.so", openblas)
    except (OSError, metadata.PackageNotFoundError) as error:
        raise NoFastBlas(f"no private folder for the library: {error}") from error


def is_there(shim: Shim) -> bool:
    """Return True for a shim that was built and tried. Raises NoFastBlas for an untrusted file."""
    try:
        check_private_file(shim.file)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise NoFastBlas(str(error)) from error
    return True


def build(shim: Shim) -> Path:
    """Compile the shim into a new private file beside its place. Raises NoFastBlas."""
    descriptor, name = tempfile.mkstemp(".so", "new-", shim.file.parent)
    os.close(descriptor)
    new = Path(name)
    try:
        _compile(shim.openblas, new)
        new.chmod(0o600)
    except BaseException as error:
        new.unlink()
        if isinstance(error, OSError | subprocess.TimeoutExpired):
            raise NoFastBlas(f"{COMPILER} cannot be run: {error}") from error
        raise
    return new


def _compile(openblas: Path, to: Path) -> None:
    """Compile the shim. Raises NoFastBlas, OSError or TimeoutExpired."""
    command = [COMPILER, *FLAGS, str(SOURCE), "-o", str(to), str(openblas)]
    ran = subprocess.run(  # noqa: S603  (our own words, no shell)
        [*command, f"-Wl,-rpath,{openblas.parent}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=BUILD_SECONDS,
        check=False,
    )
    if ran.returncode != 0:
        lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
        why = lines[-1] if lines else f"exit status {ran.returncode}"
        raise NoFastBlas(f"{COMPILER} cannot build the library: {why[:200]}")


def _key(openblas: Path) -> str:
    """Return a hash over everything that the shim is made of and tried with."""
    found = openblas.stat()
    parts = [
        SOURCE.read_text(encoding="utf-8"),
        TRIAL.read_text(encoding="utf-8"),
        *FLAGS,
        *(f"{name} {metadata.version(name)}" for name in ("numpy", "mlx", CPU_BUILD)),
        f"{openblas} {found.st_size} {found.st_mtime_ns}",
        platform.machine(),
        _processor(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    """Return what tells processors apart; one home folder may serve several machines."""
    try:
        lines = _PROCESSOR.read_text(errors="replace").partition("\n\n")[0].splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in lines if line.startswith(_KINDS))
