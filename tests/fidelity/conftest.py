"""The made models with their references, shared by all tests; the count at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fidelity import tally
from tests.fidelity.reference import Model
from tests.synthetic_models import make

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Made and loaded once a session, by its name in `synthetic_models`."""
    folder = tmp_path_factory.mktemp("families")
    models: dict[str, Model] = {}

    def model_of(name: str) -> Model:
        if name not in models:
            models[name] = Model.load(make(name, folder / name))
        return models[name]

    return model_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The one that takes as long as all others together comes first, beside them."""
    items.sort(key=lambda item: item.path.name != "test_smollm2.py")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where several processes share the tests, each hands over what it counted."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["fidelity"] = tally.counted()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    tally.add(node.workeroutput["fidelity"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if tally.compared:
        terminalreporter.write_line(tally.line())
