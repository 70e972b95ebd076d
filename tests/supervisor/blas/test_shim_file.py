"""The shim on the disk: built by a compiler, private, and refused wherever it may be another's."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

import pytest

from mlx_worker.supervisor.blas.child_blas import NoCpuBuild, NoFastBlas
from mlx_worker.supervisor.blas.shim_file import (
    Shim,
    build,
    find_openblas,
    is_there,
    numpy_folder,
    require_cpu_build,
    shim_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def shim() -> Shim:
    return shim_of(find_openblas(numpy_folder()))


def test_a_shim_is_built_private_beside_its_place(shim: Shim, cache: Path) -> None:
    assert not is_there(shim)
    new = build(shim)
    assert new.parent == shim.file.parent
    assert shim.file.is_relative_to(cache)
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert stat.S_IMODE(new.parent.stat().st_mode) == 0o700
    new.rename(shim.file)
    assert is_there(shim)


def test_another_library_has_another_shim(shim: Shim, tmp_path: Path) -> None:
    copy = tmp_path / shim.openblas.name
    shutil.copy2(shim.openblas, copy)
    assert shim_of(copy).file.name != shim.file.name
    before = shim_of(copy).file
    os.utime(copy, (1, 1))
    assert shim_of(copy).file != before


def test_numpy_without_its_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoFastBlas, match=r"numpy brings no OpenBLAS .*libscipy"):
        find_openblas(tmp_path)


def test_other_systems_lack_nothing() -> None:
    with pytest.raises(NoCpuBuild, match="system's own"):
        require_cpu_build("darwin")


def with_compiler(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = folder / "g++"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("PATH", str(folder))


def test_a_missing_compiler_is_named_and_leaves_nothing(
    shim: Shim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoFastBlas, match=r"g\+\+ cannot be run: .*No such file"):
        build(shim)
    assert not list(shim.file.parent.iterdir())


def test_a_broken_compilers_last_words_are_kept(
    shim: Shim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_compiler(tmp_path, "echo cannot find cc1plus >&2; exit 1", monkeypatch)
    with pytest.raises(NoFastBlas, match=r"g\+\+ cannot build the library: cannot find cc1plus"):
        build(shim)
    assert not list(shim.file.parent.iterdir())


def readable(file: Path, _elsewhere: Path) -> None:
    file.write_bytes(b"")
    file.chmod(0o644)


def link(file: Path, elsewhere: Path) -> None:
    elsewhere.write_bytes(b"")
    elsewhere.chmod(0o600)
    file.symlink_to(elsewhere)


def second_name(file: Path, elsewhere: Path) -> None:
    elsewhere.write_bytes(b"")
    elsewhere.chmod(0o600)
    file.hardlink_to(elsewhere)


def folder(file: Path, _elsewhere: Path) -> None:
    file.mkdir(0o700)


@pytest.mark.parametrize("plant", [readable, link, second_name, folder])
def test_a_file_that_is_no_private_file_is_refused(
    shim: Shim, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    plant(shim.file, tmp_path / "elsewhere")
    with pytest.raises(NoFastBlas, match="remove it"):
        is_there(shim)


def test_a_file_of_another_user_is_refused(shim: Shim, monkeypatch: pytest.MonkeyPatch) -> None:
    shim.file.write_bytes(b"")
    shim.file.chmod(0o600)
    assert is_there(shim)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(NoFastBlas, match="own"):
        is_there(shim)


def test_a_folder_that_others_may_use_is_refused(shim: Shim) -> None:
    shim.file.parent.chmod(0o755)
    with pytest.raises(NoFastBlas, match="others may use it"):
        shim_of(shim.openblas)
