"""The folder of a model that fails when it is told to, and how a test tells its child."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from tests.faults.failing_model import FILE, FOLDER, HELD, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make_failing(model: Path, destination: Path) -> Path:
    """Copy a model's folder, as one of `failing_model`; return the copy."""
    destination.mkdir()
    for file in model.iterdir():
        (destination / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text()) | {"model_type": "failing"}
    (destination / "config.json").write_text(json.dumps(config))
    return destination


@contextmanager
def faults_from(folder: Path) -> Iterator[None]:
    """Have the children of the nodes that start meanwhile look for their faults in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder))
        yield


def set_fault(folder: Path, fault: Fault) -> None:
    """Set what the next child that works fails at."""
    (folder / HELD).unlink(missing_ok=True)
    new = folder / "new"
    new.write_text(json.dumps(asdict(fault)))
    new.rename(folder / FILE)  # a child must not read half of the file


def is_held(folder: Path) -> bool:
    """Return True once the child waits for its end at the step that was set."""
    return (folder / HELD).exists()
