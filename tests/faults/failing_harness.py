"""Run a node whose model can be told to fail, and tell the child's model what fails when."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.failing_model import FILE, FOLDER, HELD, Fault
from tests.faults.failing_node import COMMAND
from tests.processes import RunningNode, running_node

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BALLAST: Final = 256
"""The ballast of a model that drafts, whatever else the machine does."""

STEPWISE: Final = 'speculation = "off"'
"""The setting of a model whose steps are counted: each is one token of a row, and none is measured
at the load."""

RESTLESS = "backoff_initial = 0\nmax_restarts = 100000"


@contextlib.contextmanager
def running_failing_node(
    name: str,
    original: Path,
    folder: Path,
    *,
    supervisor: str = RESTLESS,
    extra: str = "",
    spares: int = 0,
    command: Sequence[str] = COMMAND,
    wait: bool = True,
    drafts: bool = False,
) -> Iterator[RunningNode]:
    """Run a node that serves a copy of the model in `original`; `folder` has no model and no node.

    The copy's class is `failing_model`'s: the weights and the tokens are the original's. Without
    `drafts` a step is one token of each row, and no pass is measured: steps can be counted.
    """
    model = failing_copy(original, folder / "model", ballast=BALLAST if drafts else 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(fault_folder(folder)))
        node_folder = folder / "node"
        node_folder.mkdir()
        with running_node(
            node_folder,
            {name: model},
            supervisor=supervisor,
            extra=extra if drafts else f"{STEPWISE}\n{extra}",
            spares=spares,
            command=command,
        ) as node:
            if wait:
                node.wait_until_ready()
            yield node


def failing_copy(
    original: Path, model: Path, model_type: str = "failing", *, ballast: int = 0
) -> Path:
    """Copy a model; the copy's class is `failing_model`'s, or `storable_model`'s."""
    model.mkdir()
    for file in original.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    changed = {"model_type": model_type} | ({"ballast": ballast} if ballast else {})
    config = json.loads((original / "config.json").read_text()) | changed
    (model / "config.json").write_text(json.dumps(config))
    return model


def set_fault(folder: Path, fault: Fault) -> None:
    """Tell the model of the node in `folder` what fails; counts begin at the next step."""
    (fault_folder(folder) / HELD).unlink(missing_ok=True)
    written = fault_folder(folder) / "written"
    written.write_text(json.dumps(asdict(fault)))
    written.rename(fault_folder(folder) / FILE)


def is_held(folder: Path) -> bool:
    """Return True once the model has come to the place of a "hold", and waits there."""
    return (fault_folder(folder) / HELD).exists()


def clear_fault(folder: Path) -> None:
    """Take back a fault that every process meets again."""
    (fault_folder(folder) / FILE).unlink()


def fault_folder(folder: Path) -> Path:
    """Return the folder where the model looks for its fault."""
    path = folder / "fault"
    path.mkdir(exist_ok=True)
    return path
