"""What children preload: tried once, found again, and dropped for whatever is missing or wrong."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.config.schema import Config, CpuConfig, ModelConfig
from mlx_worker.engine.kv.disk.identity import identity_of
from mlx_worker.engine.loading import read_model
from mlx_worker.supervisor.blas.child_blas import OWN_BLAS, ChildBlas, FileState, thread_variables
from mlx_worker.supervisor.blas.preparation import (
    BlasPreparation,
    expects_fast_blas,
    prepare,
    threads_of,
)
from mlx_worker.supervisor.blas.trial import measure
from mlx_worker.supervisor.process.launch.process import spawn
from mlx_worker.system.cores import usable_cores
from mlx_worker.system.loaded_blas import PRELOADED, keep_preload_from_helpers

if TYPE_CHECKING:
    from collections.abc import Callable


def config_of(blas: str = "auto", threads: int | None = None, models: int = 1) -> Config:
    listed = tuple(ModelConfig(id=f"m{i}", path="m") for i in range(models))
    return Config(models=listed, cpu=CpuConfig(blas, threads))


def test_numpys_openblas_is_prepared_once_and_multiplies_right(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    assert expects_fast_blas(CpuConfig())
    blas = prepare(config_of())
    facts = measure(blas)
    assert (facts.library, facts.error <= 1) == (str(blas.library), True)
    assert facts.name.startswith("OpenBLAS")
    assert [path.suffix for path in Path(facts.library).parent.iterdir()] == [".so"]
    monkeypatch.setenv("PATH", str(tmp_path))  # which has no compiler
    assert expects_fast_blas(CpuConfig())
    assert prepare(config_of()) == blas
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]


def no_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))


def a_compiler_of_nonsense(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = folder / "g++"
    compiler.write_text("#!/bin/sh\nwhile [ $1 != -o ]; do shift; done; echo no library > $2\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("PATH", str(folder))


def a_folder_of_others(_folder: Path, _monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "mlx-worker" / "blas"
    cache.mkdir(parents=True)
    cache.chmod(0o755)


@pytest.mark.parametrize(
    "spoil",
    [
        no_compiler,
        a_folder_of_others,
        pytest.param(a_compiler_of_nonsense, marks=pytest.mark.full),
    ],
)
def test_what_is_missing_or_wrong_is_one_line_and_mlxs_own_blas(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    (tmp_path / "bin").mkdir()
    spoil(tmp_path / "bin", monkeypatch)
    assert prepare(config_of()) == OWN_BLAS
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    built = Path(os.environ["XDG_CACHE_HOME"]) / "mlx-worker" / "blas"
    assert not list(built.iterdir())


def test_a_configured_library_that_is_not_there_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(str(tmp_path / "libopenblas.so.0"))
    assert not expects_fast_blas(config.cpu)
    assert prepare(config) == OWN_BLAS
    assert "No such file" in caplog.records[0].getMessage()


def test_bundled_prepares_nothing(cache: Path) -> None:
    assert prepare(config_of("bundled")) == OWN_BLAS
    assert not expects_fast_blas(CpuConfig("bundled"))
    assert not cache.exists()


def test_threads_are_configured_or_the_environments_or_leave_a_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert thread_variables(names, None, 3) == dict.fromkeys(names, "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert thread_variables(names, None, 3) == {}
    assert thread_variables(names, 5, 3) == dict.fromkeys(names, "5")
    assert threads_of(config_of(models=1000)) == {names[0]: "1"}


def test_a_containers_quota_bounds_the_cores(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    for text in ("max 100000\n", "no numbers\n"):
        quota.write_text(text)
        assert usable_cores(quota) == usable_cores(tmp_path / "none")
    quota.write_text("100000 100000\n")
    assert usable_cores(quota) == 1


def test_a_childs_variables_count_most_and_other_preloads_stay() -> None:
    blas = ChildBlas(Path("/blas.so"), "b", {"OPENBLAS_NUM_THREADS": "1"})
    inherited = {"LD_PRELOAD": "/malloc.so", "OPENBLAS_NUM_THREADS": "8"}
    environ = blas.with_preload(inherited)
    assert environ["LD_PRELOAD"] == "/malloc.so:/blas.so"
    assert environ["OPENBLAS_NUM_THREADS"] == "1"
    assert (
        blas.with_preload(inherited, {"OPENBLAS_NUM_THREADS": "4"})["OPENBLAS_NUM_THREADS"] == "4"
    )
    keep_preload_from_helpers(environ)
    assert environ["LD_PRELOAD"] == "/malloc.so"
    assert PRELOADED not in environ
    alone = blas.with_preload({})
    keep_preload_from_helpers(alone)
    assert "LD_PRELOAD" not in alone
    assert OWN_BLAS.with_preload(inherited, {"A": "b"}) == {**inherited, "A": "b"}


async def test_a_process_preloads_nothing_that_was_replaced_since(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = tmp_path / "blas.so"
    library.write_bytes(b"tried")
    tried = ChildBlas(library, "b", files=(FileState.of(library),))
    preparation = BlasPreparation(lambda: tried)
    assert (await preparation.of_new_process()).library == library
    shutil.copy(sys.executable, library)
    for _ in range(2):
        assert await preparation.of_new_process() == OWN_BLAS
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_spawned_process_gets_the_variables(tmp_path: Path) -> None:
    blas = ChildBlas(tmp_path / "none.so", "b")
    tell = "import os, sys; sys.stderr.write(os.environ['LD_PRELOAD'])"
    process = await spawn([sys.executable, "-c", tell], 2, {}, blas)
    said = await process.stderr.read()
    await process.wait()
    assert said.decode().endswith(str(blas.library))


def test_kv_on_disk_is_of_one_blas(nano: Path) -> None:
    model, _, _ = read_model(nano)
    cache = make_prompt_cache(model)
    versions = {"mlx": "1", "mlx-lm": "1"}
    own = identity_of(model, cache, "w", versions | {"blas": "mlx's own"})
    fast = identity_of(model, cache, "w", versions | {"blas": "OpenBLAS 1 (Zen, 1 thread)"})
    assert own.digest != fast.digest
