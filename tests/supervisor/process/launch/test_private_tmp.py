"""The folder where children put what they compile: theirs alone, or none."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_worker.config.schema import KEYS_VARIABLE
from mlx_worker.supervisor.process.launch.private_tmp import scratch_folder
from mlx_worker.supervisor.process.launch.process import spawn
from tests.processes import COMMAND, CONFIG, DEADLINE, config_text

pytestmark = pytest.mark.process


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_is_made_for_its_user_alone_and_kept(cache: Path) -> None:
    folder = scratch_folder()
    assert folder.is_relative_to(cache)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "kernel.so").touch()
    assert scratch_folder() == folder
    assert (folder / "kernel.so").exists()


def loosen(folder: Path) -> None:
    folder.chmod(0o755)


def loosen_parent(folder: Path) -> None:
    folder.parent.chmod(0o777)


def connection(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.rmdir()
    folder.symlink_to(elsewhere)


@pytest.mark.parametrize("spoil", [loosen, loosen_parent, connection])
def test_a_folder_that_others_could_write_to_is_refused(
    cache: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(scratch_folder())
    with pytest.raises(PermissionError, match="remove it"):
        scratch_folder()


def test_a_folder_of_another_user_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch_folder()
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(PermissionError, match="own"):
        scratch_folder()


async def test_children_are_told_of_it_and_not_of_keys(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, "alice:sk-of-alice-0123456789")
    keyed = f"{KEYS_VARIABLE!r} in os.environ"
    tell = f"import os, sys; sys.stderr.write(os.environ['TMPDIR'] + str({keyed}))"
    process = await spawn([sys.executable, "-c", tell], 2)
    told = await process.stderr.read()
    await process.wait()
    assert told.decode() == f"{scratch_folder()}False"


async def test_a_models_own_variables_go_before_the_nodes_and_never_before_its_rules(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHADE", "of the node")
    names = ("SHADE", "HF_HUB_OFFLINE", "TMPDIR")
    tell = f"import os, sys; sys.stderr.write(' '.join(os.environ[it] for it in {names}))"
    of_model = {"SHADE": "model", "HF_HUB_OFFLINE": "0", "TMPDIR": "/"}
    process = await spawn([sys.executable, "-c", tell], 2, of_model)
    told = await process.stderr.read()
    await process.wait()
    assert told.decode() == f"model 1 {scratch_folder()}"


@pytest.mark.skipif(sys.platform == "darwin", reason="kernels are Metal's there, and not kept")
async def test_what_mlx_compiles_lies_in_it(cache: Path) -> None:
    compile_one = (
        "import mlx.core as mx\n"
        "mx.set_default_device(mx.cpu)\n"
        "mx.eval(mx.compile(lambda x: mx.sin(x) + x * x)(mx.ones(8)))"
    )
    process = await spawn([sys.executable, "-c", compile_one], 2)
    said = await process.stderr.read()
    await process.wait()
    assert process.returncode == 0, said
    assert list((scratch_folder() / "mlx").rglob("*.so"))


def test_a_node_that_has_none_says_so_and_does_not_start(
    tiny: Path, tmp_path: Path, cache: Path
) -> None:
    loosen(scratch_folder())
    (tmp_path / CONFIG).write_text(config_text({"tiny": tiny}))
    done = subprocess.run(
        [*COMMAND, "serve", "-c", str(tmp_path / CONFIG)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 73
    assert str(cache) in done.stderr
    assert len(done.stderr.splitlines()) == 1
