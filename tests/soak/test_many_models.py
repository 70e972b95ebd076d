"""More real models than the memory limit holds, one request each: the node refuses none of them.

`tox -e soak` has 80 of them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.processes import running_node
from tests.rounds import rounds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.soak


MODELS: Final = rounds(10, 10, 80)
LIMIT: Final = "450MB"
"""A child with a nano model takes some 90 MB."""

SUPERVISOR: Final = f'memory_limit = "{LIMIT}"\nload_wait = 60'


@pytest.mark.timeout(60 + 8 * MODELS)  # so many processes start, one after the other
def test_many_models_under_a_limit_each_answer(nano: Path, tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(MODELS)]
    models = dict.fromkeys(names, nano)
    most = 0
    with running_node(
        tmp_path, models, supervisor=SUPERVISOR, extra="preload = false", spares=1
    ) as node:
        # The first models come again at the end: they had to leave for others.
        for name in [*names, *names[:3]]:
            body = {
                "model": name,
                "max_tokens": 2,
                "messages": [{"role": "user", "content": "Hello"}],
            }
            answer = node.ask("/v1/chat/completions", body)
            assert answer.status == 200, (name, answer.status, answer.body)
            report = node.ask("/health").json["models"].values()
            most = max(most, sum(model["state"] == "ready" for model in report))
        ends = [line for line in node.log if json.loads(line).get("event") == "crash"]
    assert not ends
    # The limit was felt: models took turns, and several were there at a time.
    assert 1 < most < MODELS // 2, most
