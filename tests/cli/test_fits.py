"""`mlx-worker fits`: what it says is what a node then uses.

A few tests run the real command; the others have the model built in this process.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.child.memory_probe import probe
from mlx_worker.cli.model_files.fits_report import lines, report_of
from mlx_worker.cli.model_files.memory_needs import Where, fit_of
from mlx_worker.config.load import load_config
from mlx_worker.config.sizes import MemoryLimit
from mlx_worker.supervisor.memory.fit import Question
from tests.commands import run
from tests.processes import COMMAND, DEADLINE, config_text, running_node
from tests.synthetic_models import make

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.cli.model_files.memory_needs import Found

ANYWHERE = Where(None)


def found(model: object, where: Where = ANYWHERE) -> Found:
    return fit_of(str(model), where, probe)


def report(
    model: object, where: Where = ANYWHERE, question: Question | None = None
) -> dict[str, Any]:
    return report_of(found(model, where), question or Question())


def printed(model: object, where: Where = ANYWHERE, question: Question | None = None) -> list[str]:
    return list(lines(found(model, where), question or Question()))


def limit(text: str) -> Where:
    return Where(None, memory_limit=MemoryLimit.read(text))


def fits(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "fits", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("window", tmp_path_factory.mktemp("models") / "window")


@pytest.mark.full
@pytest.mark.parametrize(
    "name",
    ["tiny", "window", "delta"],
)
def test_fits_says_what_a_node_uses(name: str, tmp_path: Path) -> None:
    folder = make(name, tmp_path / name)
    supervisor = 'memory_limit = "2GB"'
    with running_node(tmp_path, {name: folder}, supervisor=supervisor) as node:
        node.wait_until_ready()
        memory = node.model(name)["memory"]
        done = fits(name, "--config", tmp_path / "mlx-worker.toml", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["memoryLimitBytes"] == 2_000_000_000
    assert said["weightBytes"] == memory["weightBytes"]
    assert said["kv"] == memory["kv"]
    assert said["fits"] is True


def test_a_config_alone_says_what_its_folder_says(tiny: Path, tmp_path: Path) -> None:
    shutil.copy(tiny / "config.json", tmp_path)
    by_folder, by_config = report(tiny), report(tmp_path / "config.json")
    assert by_config["weightsComputed"] is True
    assert by_folder["weightsComputed"] is False
    same = set(by_folder) - {"model", "path", "weightsComputed", "notes"}
    assert {key: by_config[key] for key in same} == {key: by_folder[key] for key in same}


def test_the_largest_context_and_number_of_rows_fit_and_no_more(tiny: Path) -> None:
    small = limit("300MB")
    said = report(tiny, small, Question(8))
    assert (said["rows"], said["contextLength"]) == (8, 8192)
    most = said["maxContext"]
    assert 0 < most <= 8192
    assert printed(tiny, small, Question(8, most))[-1] == f"fits: 8 x {most} tokens"
    count = report(tiny, small, Question(1, 4096))["maxRows"]
    assert report(tiny, small, Question(count, 4096))["fits"] is True
    assert report(tiny, small, Question(count + 1, 4096))["fits"] is False
    assert "is over the budget" in printed(tiny, small, Question(count + 1, 4096))[-1]


@pytest.mark.full
def test_weights_over_the_limit_do_not_fit(tiny: Path) -> None:
    done = fits(tiny, "--memory-limit", "1MB")
    assert done.returncode == 1
    assert "weights and process need 202.2 MB" in done.stdout


def test_more_tokens_than_the_model_reads_do_not_fit(tiny: Path) -> None:
    question = Question(1, 8193)
    assert report(tiny, question=question)["fits"] is False
    assert "the model reads 8192 tokens at most" in printed(tiny, question=question)[-1]


def test_a_window_is_counted_up_to_its_width(window: Path) -> None:
    assert "a token up to 32 tokens" in "\n".join(printed(window))


def test_pinned_models_and_the_configured_context_count(tiny: Path, tmp_path: Path) -> None:
    extra = {"a": "context_length = 1000", "b": "pin = true"}
    file = tmp_path / "mlx-worker.toml"
    file.write_text(config_text({"a": tiny, "b": tiny}, extra=extra))
    where = Where(load_config(file))
    one, other = report("a", where), report("b", where)
    assert one["contextLength"] == 1000
    assert one["pinnedBytes"] > one["weightBytes"]
    assert other["pinnedBytes"] == 0


def test_weights_and_kv_of_a_draft_model_count(tiny: Path, nano: Path, tmp_path: Path) -> None:
    file = tmp_path / "mlx-worker.toml"
    file.write_text(config_text({"a": tiny}, extra=f'draft = "{nano}"'))
    alone, small, both = report(tiny), report(nano), report("a", Where(load_config(file)))
    assert both["weightBytes"] == alone["weightBytes"] + small["weightBytes"]
    assert both["kv"]["perToken"] == alone["kv"]["perToken"] + small["kv"]["perToken"]


def test_a_name_in_the_models_folder_is_found(tiny: Path) -> None:
    assert report("tiny", Where(None, models_dir=tiny.parent))["path"] == str(tiny)


@pytest.mark.full
def test_unknown_kv_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    config = {
        "model_type": "dbrx",
        "vocab_size": 32,
        "d_model": 64,
        "n_layers": 1,
        "n_heads": 2,
        "attn_config": {"kv_n_heads": 1, "clip_qkv": 8, "rope_theta": 10000},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 2, "moe_top_k": 1},
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    done = fits(file)
    assert done.returncode == 3
    assert "unknown whether this fits" in done.stdout


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "nonsense"}')
    broken, lost = fits(file), run("fits", "nowhere", "--models-dir", str(tmp_path))
    assert (broken.returncode, lost.code) == (65, 66)
    assert "nonsense not supported" in broken.stderr
    assert "Model not found: nowhere" in lost.said
    assert len(broken.stderr.splitlines()) == len(lost.said.splitlines()) == 1
