"""The wheel has the package and nothing else, and says what an index wants to know."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from mlx_worker import __version__

if TYPE_CHECKING:
    from email.message import Message

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "mlx_worker"
INFO: Final = f"mlx_worker-{__version__}.dist-info"
LARGEST: Final = 1_200_000
"""Bytes. The wheel has about 1,010,000 in some 700 files of source and page, and nothing else."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as an installation from the checkout does."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"{INFO}/METADATA"))


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    shipped = {
        str(file.relative_to(ROOT))
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    about = {f"{INFO}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")}
    assert found == shipped | about | {f"{INFO}/licenses/LICENSE"}


def test_the_wheel_has_the_page_and_the_mark_of_its_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    assert "mlx_worker/py.typed" in found
    kinds = {name.rpartition(".")[2] for name in found if name.startswith("mlx_worker/page/")}
    assert kinds >= {"html", "js", "css", "svg"}


def test_the_wheel_has_neither_tests_nor_their_tools(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        assert not [name for name in archive.namelist() if "test" in name.lower()]
    assert tops == {"mlx_worker", INFO}


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST


def test_the_wheel_is_of_no_platform(wheel: Path) -> None:
    assert wheel.name == f"mlx_worker-{__version__}-py3-none-any.whl"


def test_the_metadata_say_what_an_index_shows(metadata: Message) -> None:
    assert metadata["Name"] == "mlx-worker"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# ")
    assert len(metadata["Summary"]) < 100
    assert metadata["Keywords"]
    assert "Private" not in str(metadata.get_all("Classifier"))


def test_the_classifiers_name_every_python_that_is_allowed(metadata: Message) -> None:
    prefix = "Programming Language :: Python :: 3."
    named = [
        int(line.removeprefix(prefix))
        for line in metadata.get_all("Classifier", [])
        if line.startswith(prefix)
    ]
    assert metadata["Requires-Python"] == f"<3.{max(named) + 1},>=3.{min(named)}"
    assert named == list(range(min(named), max(named) + 1))
