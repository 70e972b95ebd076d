"""npm's `ai` with `@ai-sdk/openai`, the clients that routers are written with, against a real node.

Needs node and npm, which fetches the packages. `force_output` makes the model of the test generate
what a test needs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from mlx_lm.utils import load_tokenizer

from tests.forced_output import force_output
from tests.processes import DEADLINE, RunningNode, running_node
from tests.synthetic_models import CALL, CALL_PARTS, CALLED, IM_END, THOUGHT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.npm


HERE = Path(__file__).parent
OPENING, RIVER, _ = CALL_PARTS


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "ask.mjs"):
        shutil.copy(HERE / name, folder)
    install = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(install, cwd=folder, check=True, timeout=DEADLINE)
    return folder


@pytest.fixture(scope="module")
def node(caller: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(tmp_path_factory.mktemp("node"), {"caller": caller}) as running:
        running.wait_until_ready()
        yield running


def ask(packages: Path, node: RunningNode, dialect: str, fields: dict[str, Any]) -> Any:
    command = ["node", "ask.mjs", f"{node.url}/v1", dialect, json.dumps(fields)]
    ran = subprocess.run(
        command, cwd=packages, check=True, capture_output=True, text=True, timeout=DEADLINE
    )
    return json.loads(ran.stdout)


@pytest.mark.parametrize("dialect", ["responses", "chat"])
def test_text_a_call_and_the_usage_are_streamed_and_the_tool_is_called(
    packages: Path, node: RunningNode, caller: Path, dialect: str
) -> None:
    said = force_output(
        load_tokenizer(caller), "!", THOUGHT, "?", CALL, OPENING, RIVER, CALLED, IM_END
    )
    summary = {"reasoning": {"summary": "auto"}} if dialect == "responses" else {}
    heard = ask(packages, node, dialect, said | summary)
    assert heard["errors"] == []
    assert heard["text"] == "?"
    assert heard["finish"] == "tool-calls"
    assert heard["looked"] == ["the river"]
    assert heard["usage"][0] > 0
    assert heard["usage"][1] == 8
    # The package knows no reasoning in chat completions.
    assert heard["reasoning"] == ("!" if dialect == "responses" else "")


@pytest.mark.parametrize(
    ("dialect", "limit"), [("responses", "max_output_tokens"), ("chat", "max_tokens")]
)
def test_an_answer_that_the_limit_cut_says_so(
    packages: Path, node: RunningNode, dialect: str, limit: str
) -> None:
    heard = ask(packages, node, dialect, {limit: 3})
    assert heard["errors"] == []
    assert heard["finish"] == "length"


def test_a_stream_that_breaks_is_an_error_and_no_short_answer(
    packages: Path, caller: Path, tmp_path: Path
) -> None:
    with running_node(
        tmp_path, {"caller": caller}, supervisor="max_restarts = 0\nresume_timeout = 1"
    ) as node:
        node.wait_until_ready()
        fields = {"max_output_tokens": 7000, "reasoning": {"summary": "auto"}}
        command = ["node", "ask.mjs", f"{node.url}/v1", "responses", json.dumps(fields)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=packages, stdout=pipe, stderr=pipe, text=True) as asking:
            assert asking.stderr is not None
            assert asking.stderr.readline() == "begun\n"
            psutil.Process(node.model("caller")["pid"]).kill()
            out, _ = asking.communicate(timeout=DEADLINE)
    heard = json.loads(out)
    assert "ended" in heard["errors"][0]
    assert heard["finish"] in (None, "error")
