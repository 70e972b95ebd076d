"""The script that measures what drafts gain."""

from __future__ import annotations

import pytest

from tests.tools.speculation_gain import TRACES, main


@pytest.mark.full
def test_script_prints_the_ladder_and_a_ratio_for_each_trace(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--models", "nano", "--rows", "1", "2", "--tokens", "12", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert "nano: ladder measured in" in lines[1]
    ratios = [
        line.split(" | ")[:2] for line in lines if line.startswith(tuple(f"| {t}" for t in TRACES))
    ]
    assert ratios == [[f"| {trace}", rows] for trace in TRACES for rows in ("1", "2")]
