"""Tables keep every name whole, on terminals of any width and in pipes; help is not cut."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest

from mlx_worker.cli.main import OUTPUT_NOT_TAKEN, app
from mlx_worker.cli.reports.output import ALWAYS, Column, Listing
from tests.commands import run
from tests.processes import COMMAND, DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.processes import RunningNode

NAME = "mlx-community/Qwen3-30B-A3B-Instruct-2507-4bit"
LISTING = Listing(
    (
        Column("model", ALWAYS, "left"),
        Column("state", ALWAYS, "left"),
        Column("run", 1),
        Column("restarts", 2),
    ),
    ((NAME, "ready", "12", "3"), ("[red]b", "failed", "0", "10")),
)


def lines(width: int | None) -> list[str]:
    return [line.plain for line in LISTING.lines(width)]


def test_a_pipe_has_every_column_and_no_blanks_at_the_end() -> None:
    assert lines(None) == [
        f"{'model':<46}  state   run  restarts",
        f"{NAME}  ready    12         3",
        f"{'[red]b':<46}  failed    0        10",
    ]


def test_columns_that_do_not_fit_are_left_out_by_rank_and_named() -> None:
    assert lines(60)[0] == f"{'model':<46}  state   run"
    assert lines(60)[-1] == "not shown in 60 columns: restarts"
    narrow = lines(20)
    assert narrow[1] == f"{NAME}  ready"
    assert narrow[-1] == "not shown in 20 columns: run, restarts"


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands(app)), ids=" ".join)
def test_no_summary_of_a_command_is_cut_in_80_columns(path: tuple[str, ...]) -> None:
    ran = run(*path, "--help", columns=80)
    assert ran.code == 0
    assert "..." not in ran.said.partition("\nCommands:")[2]


def in_terminal(*words: str, columns: int = 80, **environment: str) -> str:
    """Run a command whose standard output is a terminal; return what the terminal gets."""
    master, slave = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(
        [*COMMAND, *words],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        env=env | {"TERM": "xterm", "COLUMNS": str(columns)} | environment,
    ) as process:
        os.close(slave)
        read = b""
        with contextlib.suppress(OSError):  # the terminal is gone with its last process
            while chunk := os.read(master, 4096):
                read += chunk
        os.close(master)
        process.wait(DEADLINE)
    return read.decode().replace("\r\n", "\n")


def without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_a_terminal_has_colours_unless_they_are_not_wanted(node: RunningNode) -> None:
    assert "\x1b[" in in_terminal("status", "--url", node.url)
    assert "\x1b[3" not in in_terminal("status", "--url", node.url, NO_COLOR="1")
    piped = run("status", "--url", node.url)
    assert "\x1b[" not in piped.said


def test_a_narrow_terminal_has_whole_names(node: RunningNode) -> None:
    said = without_styles(in_terminal("status", "--url", node.url, columns=30))
    assert "not shown in 30 columns: " in said
    assert "…" not in said
    assert any(line.split()[:2] == ["tiny", "ready"] for line in said.splitlines())


def test_output_that_nothing_reads_ends_the_command_without_a_traceback(node: RunningNode) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "status", "--url", node.url],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (OUTPUT_NOT_TAKEN, "")


def test_a_character_that_the_output_lacks_is_escaped() -> None:
    done = subprocess.run(
        [*COMMAND, "doctor", "--config", "/nowhere"],
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"writes one; or name another" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("models",),
        ("ps",),
        ("inspect", "tiny"),
        ("cache", "clear"),
        ("top", "-n", "1"),
    ],
    ids=" ".join,
)
def test_reports_are_json_for_programs(words: tuple[str, ...], node: RunningNode) -> None:
    ran = run(*words, "--json", "--url", node.url)
    assert ran.code == 0
    assert isinstance(json.loads(ran.said), dict)


def test_findings_of_the_doctor_are_json_for_programs() -> None:
    ran = run("doctor", "--json", "--config", "/nowhere")
    assert ran.code == 1
    findings: list[dict[str, Any]] = json.loads(ran.said)["findings"]
    assert {"severity", "subject", "found", "advice"} == set(findings[0])
    assert sys.executable in findings[0]["found"]
