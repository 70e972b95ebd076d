"""The commands in the documents do what they say: each is run against a node, in its order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands import command
from tests.front.asking import Serve, model
from tests.processes import config_text

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"
MODEL = "smollm2-135m"


def commands_of(name: str) -> Iterator[list[str]]:
    """The words of every command in a document's sh blocks, without its comment."""
    for block in re.findall(r"```sh\n(.*?)```", (DOCS / name).read_text(), re.DOTALL):
        for line in block.splitlines():
            program, *words = shlex.split(line, comments=True)
            assert program == "mlx-worker"
            yield words


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "count"), [("operations.md", 11), ("cluster.md", 5), ("first-node.md", 9)]
)
async def test_every_command_of_a_document_succeeds(
    serve: Serve,
    nano: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    count: int,
) -> None:
    front = await serve(models=(model(MODEL),))
    text = config_text({MODEL: nano}).replace("port = 0", f"port = {front.client.port}")
    (tmp_path / "mlx-worker.toml").write_text(text)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "assistant.txt").write_text("be kind and brief")
    monkeypatch.chdir(tmp_path)
    listed = list(commands_of(name))
    assert len(listed) == count
    for words in listed:
        ran = await command(*words)
        wanted = 78 if words == ["reload"] else 0  # this front was not started from a file
        assert ran.code == wanted, (words, ran.said)
        await front.reaches(MODEL, state="stopped" if words[0] == "unload" else "ready")
        if words[0] == "unload":
            await command("load", MODEL)
            await front.reaches(MODEL, state="ready")
