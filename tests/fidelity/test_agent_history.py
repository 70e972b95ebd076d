"""1,000 conversations of agents: each turn is cached at the next, and answers are as read fresh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agent_bench import Bench
from tests.agent_templates import FAMILIES, AgentFamily
from tests.agent_traces import play
from tests.fidelity import tally
from tests.rounds import rounds

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.fidelity

TRACES = rounds(2, 8, 125)
"""Of each family."""


@pytest.mark.timeout(0)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_agent_reads_again_only_what_the_template_changes(
    family: AgentFamily, tmp_path: Path
) -> None:
    counted = play(Bench(family, tmp_path / "model"), range(1000, 1000 + TRACES))
    tally.note(f"history of {family.name}", counted.traces, len(counted.wrong))
    tally.ties[f"history of {family.name}"] += counted.ties
    assert counted.wrong == []
