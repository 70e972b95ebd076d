"""Connections that fit into the files there are."""

import pytest

from mlx_worker.system.file_limit import (
    FOR_A_MODEL,
    FOR_THE_NODE,
    ConnectionBudget,
    connection_budget,
    wanted_files,
)

WANTED = ConnectionBudget(1024, 32)


def test_enough_files_leave_the_configured_connections() -> None:
    files = wanted_files(WANTED, models=3)
    assert files == 1024 + 32 + FOR_THE_NODE + 3 * FOR_A_MODEL
    assert connection_budget(files, WANTED, models=3) == WANTED


@pytest.mark.parametrize("models", [1, 3, 40])
@pytest.mark.parametrize("files", [64, 100, 256, 1000, 1024])
def test_fewer_files_leave_some_for_children_and_health(files: int, models: int) -> None:
    places = connection_budget(files, WANTED, models)
    kept = min(FOR_THE_NODE + models * FOR_A_MODEL, files // 2)
    assert places.working < WANTED.working
    assert 1 <= places.beside <= WANTED.beside
    assert places.working >= places.beside
    assert places.working + places.beside <= files - kept
