"""Bodies that mean harm, on every dialect: none fells a child, none is answered with a 5xx.

MLX_WORKER_TEST_ROUNDS is how many; MLX_WORKER_TEST_SEED chooses others. How the node does
meanwhile is printed, and held to in `tox -e fuzz`: elsewhere the machine is shared.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.nodes import IN_FULL, MODEL
from tests.fuzz.poison import poison
from tests.processes import running_node
from tests.rounds import SEED, rounds
from tests.synthetic_models import make_caller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fuzz.poison import Poison
    from tests.processes import Answer, RunningNode

COUNT = rounds(20, 60, 2000)
CLIENTS = 2
WORST_HEALTH, WORST_GAP = 0.2, 0.3
"""Seconds, on a machine that does nothing else."""

SETTINGS = "context_length = 1024\n[models.defaults]\nmax_tokens = 4\n"
OWN_FAULTS = (b'"internal_error"', b'"child_lost"', b'"poisoned_request"', b'"api_error"')
"""Codes of errors that would be the node's."""


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("poisoned")
    models = {MODEL: make_caller(folder / MODEL)}
    with running_node(folder, models, extra=SETTINGS) as node:
        node.wait_until_ready()
        yield node


def judge(body: Poison, answer: Answer) -> None:
    where = f"{body.kind}, {body.path}: {body.data[:300]!r}"
    assert answer.status < 500, (where, answer.body[:300])
    assert not any(fault in answer.body for fault in OWN_FAULTS), (where, answer.body[-300:])
    assert b"NoExtensionBias" not in answer.body, where
    if answer.status >= 400:
        assert json.loads(answer.body)["error"]["message"], where


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_no_body_fells_a_child_or_makes_the_node_say_that_it_is_at_fault(
    poisoned: RunningNode,
) -> None:
    bodies = [poison(SEED, number) for number in range(COUNT)]
    before = poisoned.model(MODEL)
    statuses: Counter[tuple[str, int]] = Counter()
    faults: list[str] = []

    def ask(body: Poison) -> None:
        headers = {"Content-Type": "application/json"}
        answer = poisoned.ask(body.path, body.data, method="POST", headers=headers)
        statuses[body.kind, answer.status] += 1
        try:
            judge(body, answer)
        except AssertionError as fault:
            faults.append(str(fault)[:900])

    onlooker = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("onlooker.py")), poisoned.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with onlooker, ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, bodies))
        said, _ = onlooker.communicate()
    seen = json.loads(said)
    after = poisoned.model(MODEL)
    held = "\n".join(
        line
        for line in poisoned.ask("/metrics").body.decode().splitlines()
        if line.startswith(("mlx_worker_loop_held_total{", "mlx_worker_child_held_total{"))
    )
    by_kind = "\n".join(f"  {kind}: {code}: {n}" for (kind, code), n in sorted(statuses.items()))
    print(  # noqa: T201  (what was seen is the point)
        f"\n{COUNT:,} bodies, seed {SEED}: {len(faults)} faults;"
        f" health {seen['health']:.3f} s at worst of {seen['looks']:,},"
        f" gap {seen['gap']:.3f} s of {seen['pieces']:,} pieces\n{by_kind}\n{held}"
    )
    assert not faults, "\n".join(faults[:10])
    assert (after["pid"], after["restarts"]) == (before["pid"], before["restarts"])
    assert seen["pieces"]
    if IN_FULL:
        assert seen["health"] <= WORST_HEALTH
        assert seen["gap"] <= WORST_GAP
