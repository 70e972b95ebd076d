"""Prepares the BLAS of children beside the node's start.

The first start on a machine compiles the shim and tries a product, which takes about a second;
later starts find the file. The node listens meanwhile. Models wait with their start: the type of
their weights and the memory that they need depend on the result. Spares wait too.

[front]
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlx_worker.config.schema import CpuConfig
from mlx_worker.config.schema.cpu import AUTO, BUNDLED
from mlx_worker.errors import cause_of
from mlx_worker.logs import Entry
from mlx_worker.supervisor import settings
from mlx_worker.supervisor.blas.child_blas import (
    OWN_BLAS,
    ChildBlas,
    FileState,
    NoCpuBuild,
    NoFastBlas,
    thread_variables,
)
from mlx_worker.supervisor.blas.shim_file import (
    COMPILER,
    build,
    find_openblas,
    is_there,
    numpy_folder,
    require_cpu_build,
    shim_of,
)
from mlx_worker.supervisor.blas.trial import tried
from mlx_worker.system.cores import usable_cores
from mlx_worker.system.daemon_threads import call_in_daemon_thread
from mlx_worker.system.loaded_blas import OWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlx_worker.config.schema import Config
    from mlx_worker.models.weight_types import WeightTypes

log = logging.getLogger(__name__)

_OF_OPENBLAS: Final = ("OPENBLAS_NUM_THREADS",)
_OF_ANY: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def prepare(config: Config) -> ChildBlas:
    """Return the BLAS of children; build and try it if needed. Never raises; blocks."""
    try:
        blas = find_blas(config)
        log.info(Entry("BLAS", blas=blas.name, **blas.threads))
    except NoCpuBuild as error:
        log.info(Entry("BLAS", blas=OWN, why=str(error)))
    except NoFastBlas as error:
        log.warning(Entry("BLAS", blas=OWN, why=str(error)))
    except Exception as error:  # noqa: BLE001  (a node without a fast BLAS is a node)
        log.warning(Entry("BLAS", blas=OWN, why=cause_of(error)))
    else:
        return blas
    return OWN_BLAS


def expects_fast_blas(cpu: CpuConfig) -> bool:
    """Return True if a node with these settings will probably find a fast BLAS.

    Nothing is built or run here.
    """
    if cpu.blas == BUNDLED:
        return False
    try:
        require_cpu_build()
        if cpu.blas != AUTO:
            return Path(cpu.blas).is_file()
        openblas = find_openblas(numpy_folder())
        return shutil.which(COMPILER) is not None or is_there(shim_of(openblas))
    except NoFastBlas:
        return False


def expected_weight_types(config: Config | None) -> WeightTypes:
    """Return the types of weights that a node of this configuration will probably use."""
    cpu = config.cpu if config else CpuConfig()
    return settings.weight_types(config, fast_blas=expects_fast_blas(cpu))


def threads_of(config: Config, names: tuple[str, ...] = _OF_OPENBLAS) -> Mapping[str, str]:
    """Return the variables that set a child's number of threads.

    One core is left to the front and to what runs beside, because a product that is shared among
    threads ends with its slowest one: without a free core such a product is slower than one thread.
    """
    default = max(1, (usable_cores() - 1) // max(1, len(config.models)))
    return thread_variables(names, config.cpu.threads, default)


def find_blas(config: Config) -> ChildBlas:
    """Return the BLAS of the configuration; build and try it if needed. Blocks.

    Raises NoFastBlas, or OSError where files cannot be written.
    """
    require_cpu_build()
    if config.cpu.blas == BUNDLED:
        return OWN_BLAS
    if config.cpu.blas != AUTO:
        return tried(Path(config.cpu.blas), threads_of(config, _OF_ANY))
    shim = shim_of(find_openblas(numpy_folder()))
    threads = threads_of(config)
    if not is_there(shim):
        new = build(shim)
        try:
            tried(new, threads)
            new.rename(shim.file)
        finally:
            new.unlink(missing_ok=True)
    files = (FileState.of(shim.file), FileState.of(shim.openblas))
    return ChildBlas(shim.file, "numpy's OpenBLAS", threads, files)


class BlasPreparation:
    """The BLAS of one node's children; `prepare` runs on a thread of its own."""

    def __init__(self, prepare: Callable[[], ChildBlas]) -> None:
        self._prepare = prepare
        self._task: asyncio.Task[ChildBlas] | None = None
        self.blas = OWN_BLAS
        """mlx's own until the preparation has ended."""

    async def ready(self) -> ChildBlas:
        """Return the BLAS once it is prepared; the first call begins the preparation."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="BLAS")
        return await asyncio.shield(self._task)

    async def of_new_process(self) -> ChildBlas:
        """Return the BLAS of a process that starts now: mlx's own if the files were replaced."""
        prepared = await self.ready()
        if not prepared.is_unchanged() and self.blas is prepared:
            self.blas = OWN_BLAS
            why = "the library was replaced: restart the node"
            log.warning(Entry("BLAS", blas=OWN, why=why))
        return self.blas

    async def _run(self) -> ChildBlas:
        try:
            self.blas = await call_in_daemon_thread(self._prepare, "BLAS")
        except OSError as error:  # the system has no thread left
            log.warning(Entry("BLAS", blas=OWN, why=cause_of(error)))
        return self.blas
