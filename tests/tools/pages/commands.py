"""Write docs/reference/commands.md: every command with its arguments and options, from click."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from mlx_worker.cli.main import NAME, app

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEGINNING: Final = """\
# Commands

Written by `python -m tests.tools.generated` from the commands themselves. `mlx-worker COMMAND
--help` prints the same, `mlx-worker --help` a list of them, and `mlx-worker --version` the versions
of mlx-worker, mlx, mlx-lm and Python. What commands are for is in
[Daily commands](../how-to/operate.md), and words such as spare or pinned are in
[the glossary](glossary.md).

A command that asks a node finds the node by `--url`, else at the address of the configuration that
`serve` would read, else at `http://127.0.0.1:8081`. It sends the key in `$MLX_WORKER_API_KEY`, else
the first key of that configuration. An error is one line on stderr and an
[exit code](exit-codes.md). `eval "$(mlx-worker completion bash)"` (or zsh, fish) completes commands
and the names of models in your shell.
"""


def page() -> str:
    """Return the page."""
    return "\n".join((_BEGINNING, *_sections()))


def _sections() -> Iterator[str]:
    for name, command in _commands(NAME, app):
        yield _section(name, command)


def _commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and those below it, by their full names; not the root itself."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    if name != NAME and command.invoke_without_command:
        yield name, command
    for below in sorted(command.commands):
        yield from _commands(f"{name} {below}", command.commands[below])


def _section(name: str, command: click.Command) -> str:
    usage = " ".join((name, *command.collect_usage_pieces(click.Context(command))))
    parts = (f"## {name}", f"`{usage}`", _paragraphs(command.help or ""), _options(command))
    return "\n\n".join(part for part in parts if part) + "\n"


def _paragraphs(text: str) -> str:
    """Return a help text as Markdown paragraphs, each on a line."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _options(command: click.Command) -> str:
    context = click.Context(command)
    options = [param for param in command.params if isinstance(param, click.Option)]
    records = [option.get_help_record(context) for option in options]
    rows = [f"| `{_cell(record[0])}` | {_cell(record[1])} |" for record in records if record]
    return "\n".join(("| option | |", "|---|---|", *rows)) if rows else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
