"""The alert examples speak of what the node says, in words that Prometheus understands."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.front.asking import Serve

FILE = Path(__file__).parents[2] / "deploy/prometheus/alerts.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["groups"][0]["rules"]
OF_PROMETHEUS = {"up"}
NAME = re.compile(r"\b(up|mlx_worker_\w+|vllm:\w+)\b(?!=)")


def test_there_is_an_alert_for_each_way_to_fail_and_it_says_what_to_do() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names)) == 11
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["annotations"]["action"].endswith(".") or "?" in rule["annotations"]["action"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
async def test_an_alert_names_only_what_the_node_says(serve: Serve, rule: dict[str, Any]) -> None:
    front = await serve("--die-after-tokens", "1", "--only", "crash", "--refuse")
    text = (await front.ask("/metrics")).body.decode()
    said = {
        sample
        for family in text_string_to_metric_families(text)
        for sample in (
            family.name,
            *{
                "counter": [f"{family.name}_total"],
                "histogram": [f"{family.name}_{suffix}" for suffix in ("bucket", "sum", "count")],
            }.get(family.type, []),
        )
    }
    named = {name for name in NAME.findall(rule["expr"]) if not name.endswith(("_state}",))}
    assert named, "an alert is about something"
    assert named <= said | OF_PROMETHEUS


@pytest.mark.process
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_itself_accepts_the_alerts() -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None
    checked = subprocess.run(
        [promtool, "check", "rules", str(FILE)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
