"""A folder that loads with warnings: told by the commands, by health and in the log."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.commands import run
from tests.processes import config_text, running_node

if TYPE_CHECKING:
    from pathlib import Path

STALE = "model.safetensors.index.json lists model-00001-of-00002.safetensors, not in the folder"
NO_CONTEXT = "neither config.json nor tokenizer_config.json states a context length"


@pytest.fixture
def odd(nano: Path, tmp_path: Path) -> Path:
    """A folder as mlx_lm loads them: infinite numbers, an index of other files, no context."""
    folder = shutil.copytree(nano, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    config["time_step_limit"] = [0.0, float("inf")]
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["model_max_length"] = 1e30
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.full
def test_a_node_serves_such_a_folder_and_tells_its_warnings(odd: Path, tmp_path: Path) -> None:
    with running_node(tmp_path, {"odd": odd}) as node:
        node.wait_until_ready()
        entry = node.model("odd")
        assert (entry["state"], entry["contextLength"]) == ("ready", None)
        stale, no_context = entry["warnings"]
        assert STALE in stale
        assert NO_CONTEXT in no_context
        (listed,) = node.ask("/v1/models").json["data"]
        assert listed["context_length"] is None
        for said in (STALE, NO_CONTEXT):
            assert any("warning" in line.lower() and said in line for line in node.log)
        turn = {"role": "user", "content": "a" * 4500}
        answer = node.ask("/v1/chat/completions", {"messages": [turn], "max_tokens": 1})
        assert answer.status == 200
        assert answer.json["usage"]["prompt_tokens"] > 4096


def test_commands_tell_the_warnings_of_a_folder(odd: Path, tmp_path: Path) -> None:
    file = tmp_path / "mlx-worker.toml"
    file.write_text(config_text({"odd": odd}))
    checked = run("check", str(file))
    assert checked.code == 0
    assert "context without a limit" in checked.said
    assert f"warning: {STALE}" in checked.said
    assert f"warning: {NO_CONTEXT}" in checked.said
    told = run("doctor", "--config", str(file))
    assert "warn" in next(line for line in told.said.splitlines() if "model odd" in line)
    file.write_text(config_text({"odd": odd}, extra="context_length = 4096"))
    checked = run("check", str(file))
    assert "context 4096" in checked.said
    assert NO_CONTEXT not in checked.said
