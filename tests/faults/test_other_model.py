"""Weights, mlx-lm or this package replaced under a running node, then a kill in mid-stream.

The answers are then either exact or end with an error that says what changed; never a mixture.
"""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

import mlx_worker
from tests.processes import DEADLINE, RunningNode, eventually, running_node
from tests.synthetic_models import WORDS

ASKED: Final = {
    "messages": [{"role": "user", "content": " ".join(WORDS * 12)}],
    "max_tokens": 200,
    "temperature": 0.8,
    "seed": 5,
}
ENDPOINT: Final = "/v1/chat/completions"
CHANGED: Final = "weights_changed"


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "model")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python looks for packages in first, in the node and in its children."""
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(path))
    return path


def copy_of(name: str, site: Path) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    unread = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(Path(spec.origin).parent, site / name, ignore=unread)


def replace_number(folder: Path) -> None:
    """Change the lowest bit of one number, in the file, as it lies."""
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        low = file.read(1)
        file.seek(-4, os.SEEK_END)
        file.write(bytes([low[0] ^ 1]))


def replace_text(path: Path, more: str) -> None:
    """Write the file anew under its name, as installers do."""
    new = path.with_suffix(".new")
    new.write_text(path.read_text() + more)
    new.replace(path)


async def both(node: RunningNode, replace: Callable[[], None]) -> tuple[str, str, Any]:
    """Have a stream and a whole answer under way, replace something, kill the child.

    Returns the stream's text, the code of its error event ("" where it has none) and the body of
    the whole answer.
    """
    text, code, events = "", "", 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE)) as session:

        async def whole() -> Any:
            async with session.post(node.url + ENDPOINT, json=ASKED) as response:
                return await response.json()

        asking = asyncio.ensure_future(whole())
        stream = ASKED | {"stream": True}
        async with session.post(node.url + ENDPOINT, json=stream) as response:
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    code = event["error"]["code"]
                    continue
                text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                events += 1
                if events == 3:
                    replace()
                    os.kill(node.model("m")["pid"], signal.SIGKILL)
        return text, code, await asking


def exact(node: RunningNode) -> str:
    answer = node.ask(ENDPOINT, ASKED)
    assert answer.status == 200, answer.body
    return str(answer.json["choices"][0]["message"]["content"])


async def ends_with_what_changed(
    node: RunningNode, replace: Callable[[], None], *said: str
) -> None:
    expected = exact(node)
    text, code, whole = await both(node, replace)
    assert code == CHANGED
    assert expected.startswith(text)
    assert len(text) < len(expected)
    assert whole["error"]["code"] == CHANGED
    for words in (*said, "send the request again"):
        assert words in whole["error"]["message"]
    node.wait_until_ready()
    exact(node)


async def test_weights_with_one_other_bit_end_the_answers(folder: Path, tmp_path: Path) -> None:
    with running_node(tmp_path, {"m": folder}) as node:
        node.wait_until_ready()
        await ends_with_what_changed(node, lambda: replace_number(folder), "model files")


@pytest.mark.full
async def test_a_tokenizer_that_was_replaced_ends_the_answers(folder: Path, tmp_path: Path) -> None:
    def replace() -> None:
        replace_text(folder / "tokenizer_config.json", " ")

    with running_node(tmp_path, {"m": folder}) as node:
        node.wait_until_ready()
        await ends_with_what_changed(node, replace, "model files")


@pytest.mark.full
async def test_a_folder_of_the_same_content_goes_on(folder: Path, tmp_path: Path) -> None:
    """Everything was copied anew: other files, other times, the same model."""

    def replace() -> None:
        new = shutil.copytree(folder, tmp_path / "new", copy_function=shutil.copy)
        folder.rename(tmp_path / "old")
        new.rename(folder)

    with running_node(tmp_path, {"m": folder}) as node:
        node.wait_until_ready()
        expected = exact(node)
        text, code, whole = await both(node, replace)
        assert (text, code) == (expected, "")
        assert whole["choices"][0]["message"]["content"] == expected


@pytest.mark.full
async def test_another_mlx_lm_ends_the_answers(tiny: Path, tmp_path: Path, site: Path) -> None:
    def replace() -> None:
        new = copy_of("mlx_lm", tmp_path / "staged")
        (new / "_version.py").write_text('__version__ = "0.99.0"\n')
        new.rename(site / "mlx_lm")

    with running_node(tmp_path, {"m": tiny}) as node:
        node.wait_until_ready()
        await ends_with_what_changed(node, replace, "mlx-lm: 0.", "now 0.99.0")


@pytest.mark.full
async def test_this_package_replaced_under_the_node_ends_the_answers_and_names_the_cure(
    tiny: Path, tmp_path: Path, site: Path
) -> None:
    """A spare process has imported the older code: it must not load a model with the newer."""
    package = copy_of("mlx_worker", site)
    assert Path(mlx_worker.__file__).parent != package

    def replace() -> None:
        replace_text(package / "engine" / "sampling.py", "\n# newer\n")

    with running_node(tmp_path, {"m": tiny}, spares=1) as node:
        node.wait_until_ready()
        eventually(lambda: bool(node.ask("/health").json["standby"]["waiting"]))
        await ends_with_what_changed(node, replace, "mlx-worker: ", "restart the node")
        assert any("restart the node" in line for line in node.log)
        assert any("the package mlx_worker was replaced" in line for line in node.log)
