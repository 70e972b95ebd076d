"""Weights, mlx-lm or this package replaced under a running node, then a kill in mid-stream.

The answers are then either exact or end with an error that says what changed; never a mixture.
"""

import asyncio
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

import mlx_worker
from tests.faults.failing_harness import is_held, running_failing_node, set_fault
from tests.faults.failing_model import HOLD, Fault
from tests.processes import DEADLINE, RunningNode, eventually, stopped
from tests.sse import DONE, chat_text, events_from
from tests.synthetic_models import WORDS

ASKED: Final = {
    "messages": [{"role": "user", "content": " ".join(WORDS * 12)}],
    "max_tokens": 200,
    "temperature": 0.8,
    "seed": 5,
}
ENDPOINT: Final = "/v1/chat/completions"
CHANGED: Final = "weights_changed"


HELD: Final = Fault(kind=HOLD, at=20, rows=2)
"""A step that the child does not get beyond until it is killed: both answers have begun by then."""


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


@dataclass(frozen=True)
class Broken:
    """What was said: a stream's text, the code of its error event ("": none), a whole answer."""

    text: str
    code: str
    whole: Any


async def both(node: RunningNode, folder: Path, replace: Callable[[], None]) -> Broken:
    """Have a stream and a whole answer under way, replace something, kill the child."""
    child = node.child("m")
    set_fault(folder, HELD)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE)) as session:

        async def whole() -> Any:
            async with session.post(node.url + ENDPOINT, json=ASKED) as response:
                return await response.json()

        async def streamed() -> tuple[str, str]:
            text, code = "", ""
            stream = ASKED | {"stream": True}
            async with session.post(node.url + ENDPOINT, json=stream) as response:
                async for event in events_from(response.content):
                    if "error" in event.data:
                        code = event.data["error"]["code"]
                    elif event.data != DONE:
                        text += chat_text(event.data)
            return text, code

        with stopped(child):  # until it has both, so that it answers them side by side
            asking = asyncio.gather(streamed(), whole())
            await asyncio.to_thread(eventually, lambda: node.model("m")["running"] == 2)
        await asyncio.to_thread(eventually, lambda: is_held(folder))
        replace()
        child.kill()
        (text, code), answer = await asking
        return Broken(text, code, answer)


def exact(node: RunningNode) -> str:
    answer = node.ask(ENDPOINT, ASKED)
    assert answer.status == 200, answer.body
    return str(answer.json["choices"][0]["message"]["content"])


async def ends_with_what_changed(
    node: RunningNode, folder: Path, replace: Callable[[], None], *words: str
) -> None:
    expected = exact(node)
    broken = await both(node, folder, replace)
    assert broken.code == CHANGED
    assert expected.startswith(broken.text)
    assert 0 < len(broken.text) < len(expected)
    assert broken.whole["error"]["code"] == CHANGED
    for part in (*words, "send the request again"):
        assert part in broken.whole["error"]["message"]
    node.wait_until_ready()
    exact(node)


@pytest.mark.full
async def test_weights_with_one_other_bit_end_the_answers(tiny: Path, tmp_path: Path) -> None:
    with running_failing_node("m", tiny, tmp_path) as node:
        await ends_with_what_changed(
            node, tmp_path, lambda: replace_number(tmp_path / "model"), "model files"
        )


@pytest.mark.full
async def test_a_tokenizer_that_was_replaced_ends_the_answers(tiny: Path, tmp_path: Path) -> None:
    def replace() -> None:
        replace_text(tmp_path / "model" / "tokenizer_config.json", " ")

    with running_failing_node("m", tiny, tmp_path) as node:
        await ends_with_what_changed(node, tmp_path, replace, "model files")


@pytest.mark.full
async def test_a_folder_of_the_same_content_goes_on(tiny: Path, tmp_path: Path) -> None:
    """Everything was copied anew: other files, other times, the same model."""

    def replace() -> None:
        model = tmp_path / "model"
        new = shutil.copytree(model, tmp_path / "new", copy_function=shutil.copy)
        model.rename(tmp_path / "old")
        new.rename(model)

    with running_failing_node("m", tiny, tmp_path) as node:
        expected = exact(node)
        broken = await both(node, tmp_path, replace)
        assert (broken.text, broken.code) == (expected, "")
        assert broken.whole["choices"][0]["message"]["content"] == expected


@pytest.mark.full
async def test_another_mlx_lm_ends_the_answers(tiny: Path, tmp_path: Path, site: Path) -> None:
    def replace() -> None:
        new = copy_of("mlx_lm", tmp_path / "staged")
        (new / "_version.py").write_text('__version__ = "0.99.0"\n')
        new.rename(site / "mlx_lm")

    with running_failing_node("m", tiny, tmp_path) as node:
        await ends_with_what_changed(node, tmp_path, replace, "mlx-lm: 0.", "now 0.99.0")


@pytest.mark.full
async def test_this_package_replaced_under_the_node_ends_the_answers_and_names_the_cure(
    tiny: Path, tmp_path: Path, site: Path
) -> None:
    """A spare process has imported the older code: it must not load a model with the newer."""
    package = copy_of("mlx_worker", site)
    assert Path(mlx_worker.__file__).parent != package

    def replace() -> None:
        replace_text(package / "engine" / "sampling.py", "\n# newer\n")

    with running_failing_node("m", tiny, tmp_path, spares=1) as node:
        eventually(lambda: bool(node.ask("/health").json["standby"]["waiting"]))
        await ends_with_what_changed(node, tmp_path, replace, "mlx-worker: ", "restart the node")
        assert any("restart the node" in line for line in node.log)
        assert any("the package mlx_worker was replaced" in line for line in node.log)
