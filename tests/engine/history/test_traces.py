"""Agents' conversations in every dialect: at each turn all of the turn before is still cached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agent_bench import Bench
from tests.agent_templates import FAMILIES, AgentFamily
from tests.agent_traces import play
from tests.rounds import variants

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT = [family for family in FAMILIES if family.name == "glm"]


@pytest.mark.parametrize("family", variants(FAMILIES, DEFAULT), ids=lambda family: family.name)
def test_traces_read_again_only_what_the_template_changes(
    family: AgentFamily, tmp_path: Path
) -> None:
    tally = play(Bench(family, tmp_path / "model"), range(2))
    assert tally.wrong == []
    assert tally.seen["whole"] > tally.turns / 3


def test_traces_without_history_are_read_again(tmp_path: Path) -> None:
    """What the others prove is no property of the traces."""
    (hermes,) = (family for family in FAMILIES if family.name == "hermes")
    tally = play(Bench(hermes, tmp_path / "model", remembers=False), range(3), fresh=False)
    assert tally.cached < tally.resident
