"""The commands in the documents do what they say: each is run against a node, in its order."""

from __future__ import annotations

import asyncio
import shlex
from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from mlx_worker.kv_disk.place import FOLDER_VARIABLE
from tests.commands import command
from tests.documented_commands import DOCUMENTS, Shown, run_elsewhere, shown_in
from tests.front.asking import Serve, model
from tests.processes import config_text

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "smollm2-135m"
EXAMPLE = "127.0.0.1:8081"
"""The address of the node in the documents."""
NOT_FROM_A_FILE = 78
"""How `reload` ends here: this front was not started from a file."""


def runnable() -> list[list[Shown]]:
    """Return the blocks of all documents, without what was in an earlier one."""
    seen: set[str] = set()
    blocks = []
    for path in DOCUMENTS:
        for block in shown_in(path):
            fresh = [
                shown
                for shown in block
                if not shown.marked and run_elsewhere(shown.line) is None and shown.line not in seen
            ]
            seen |= {shown.line for shown in fresh}
            blocks.append(fresh)
    return blocks


def is_command(shown: Shown) -> bool:
    return shown.line.removeprefix(".venv/bin/").startswith("mlx-worker ")


@pytest.mark.process
async def test_every_command_of_the_documents_succeeds(
    serve: Serve, nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = await serve(models=(model(MODEL),))
    address = f"127.0.0.1:{front.client.port}"
    text = config_text({MODEL: nano}).replace("port = 0", f"port = {front.client.port}")
    (tmp_path / "mlx-worker.toml").write_text(text)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "assistant.txt").write_text("be kind and brief")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "kv"))
    ran = 0
    for block in runnable():
        for ours, lines in groupby(block, is_command):
            if not ours:
                await run_in_shell([shown.line.replace(EXAMPLE, address) for shown in lines])
                continue
            for shown in lines:
                words = shlex.split(shown.line)[1:]
                await run_command(words, str(shown))
                await front.reaches(MODEL, state="stopped" if words[0] == "unload" else "ready")
                if words[0] == "unload":
                    await command("load", MODEL)
                    await front.reaches(MODEL, state="ready")
                ran += 1
    assert ran > 25, "the documents have commands"


async def run_command(words: list[str], shown: str) -> None:
    said = None
    if words[-2:-1] == ["<<<"]:
        words, said = words[:-2], f"{words[-1]}\n"
    done = await command(*words, said=said)
    wanted = NOT_FROM_A_FILE if words == ["reload"] else 0
    assert done.code == wanted, (shown, done.said)


async def run_in_shell(lines: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", "\n".join(lines)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, (lines, output.decode())
