"""The commands for operators of a node.

This module is imported with every command, so a function imports what it alone needs. [front]
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import IO, TYPE_CHECKING, Any

import click

from mlx_worker.cli.client_blocks import CLIENTS
from mlx_worker.cli.options import as_json, config_file, node_meant, node_url
from mlx_worker.cli.router_config import Router, router_list
from mlx_worker.system.text_files import decode_text

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from mlx_worker.cli.client import NodeClient


# --- reports ------------------------------------------------------------------------------


@click.command
@as_json
@config_file
@node_url
def status(*, as_json: bool, file: Path | None, url: str | None) -> None:
    """Show the status of the running node; the exit code tells it too.

    Exit codes: 0 healthy, 3 degraded, 4 unhealthy, 5 initializing, 6 shutting down, 69 not
    reachable, 77 wrong key.
    """
    from mlx_worker.cli.status import EXIT_CODES, overview

    node = node_meant(url, file)
    body = asyncio.run(node.health())
    if as_json:
        _print_json(body)
    else:
        _print(overview(node.url, body))
    sys.exit(EXIT_CODES[body["status"]])


@click.command
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two updates.",
)
@click.option("-n", "looks", type=click.IntRange(min=1), help="Number of updates; then end.")
@config_file
@node_url
def top(*, every: float, looks: int | None, file: Path | None, url: str | None) -> None:
    """Show the running node live, with tokens per second, until ctrl-C."""
    from rich.console import Console

    from mlx_worker.cli.top import watch

    asyncio.run(watch(node_meant(url, file), every, Console(), looks))


@click.command
@as_json
@config_file
@node_url
def models(*, as_json: bool, file: Path | None, url: str | None) -> None:
    """List the models of the running node."""
    from mlx_worker.cli.models_table import table_of

    listed = asyncio.run(node_meant(url, file).get("/v1/models"))
    if as_json:
        _print_json(listed)
    else:
        _print(table_of(listed["data"]))


@click.command
@click.argument("model", required=False)
@click.option("--follow", "-f", is_flag=True, help="Continue with new lines as they are written.")
@config_file
@node_url
def logs(*, model: str | None, follow: bool, file: Path | None, url: str | None) -> None:
    """Print the running node's log lines, of all models or of one, by name or alias."""
    asyncio.run(_print_lines(node_meant(url, file), model, follow=follow))


async def _print_lines(node: NodeClient, model: str | None, *, follow: bool) -> None:
    from mlx_worker.cli.logs import following, last_lines

    if follow:
        async for line in following(node, model):
            click.echo(line)
    else:
        for line in await last_lines(node, model):
            click.echo(line)


# --- actions ---------------------------------------------------------------------------


@click.command
@click.argument("model")
@config_file
@node_url
def restart(*, model: str, file: Path | None, url: str | None) -> None:
    """Restart a model of the running node in a new process, even if the model was given up."""
    _act(node_meant(url, file), model, "restart", "is being restarted")


@click.command
@click.argument("model")
@config_file
@node_url
def load(*, model: str, file: Path | None, url: str | None) -> None:
    """Load a model in the running node, even if the model was given up."""
    _act(node_meant(url, file), model, "load", "is being loaded")


@click.command
@click.argument("model")
@config_file
@node_url
def unload(*, model: str, file: Path | None, url: str | None) -> None:
    """Make the running node unload a model that is not busy, until a request needs the model."""
    _act(node_meant(url, file), model, "unload", "is being unloaded")


def _act(node: NodeClient, model: str, verb: str, what: str) -> None:
    asyncio.run(node.act(model, verb))
    click.echo(f"{model} {what}; `mlx-worker status` shows the progress")


@click.command
@config_file
@node_url
def reload(*, file: Path | None, url: str | None) -> None:
    """Reload the configuration of the running node; unchanged models are not interrupted."""
    for what, names in asyncio.run(node_meant(url, file).reload()).items():
        if names:
            click.echo(f"{what.replace('_', ' ')}: {', '.join(names)}")


@click.command
@click.argument("prompt", metavar="FILE", type=click.File("rb"))
@click.option("--model", help="Model's name or alias. Default: the default model.")
@config_file
@node_url
def warm(*, prompt: IO[bytes], model: str | None, file: Path | None, url: str | None) -> None:
    """Prefill the system prompt in FILE and keep it in the prompt cache of the running node.

    Requests with this system prompt then start at once. FILE may be -, which is standard input.
    """
    try:
        text = decode_text(prompt.read())
    except ValueError as error:
        raise click.BadParameter(f"{prompt.name} cannot be read: {error}") from error
    warmed = asyncio.run(node_meant(url, file).warm(text, model))
    click.echo(f"{warmed['model']}: {warmed['tokens']} tokens, {warmed['systemPromptHash']}")


@click.command
@click.argument("model", required=False)
@config_file
@node_url
def clear(*, model: str | None, file: Path | None, url: str | None) -> None:
    """Clear the cached prompts of all models, or of one by name or alias."""
    cleared = asyncio.run(node_meant(url, file).clear(model))
    click.echo(f"cleared: {', '.join(cleared)}")


# --- conversation ------------------------------------------------------------------------------


@click.command
@click.argument("model", required=False)
@click.option("--system", help="System prompt of the conversation.")
@click.option("--temperature", type=float, help="Default: the model's.")
@click.option("--max-tokens", type=int, help="Default: the model's.")
@click.option("--seed", type=int, help="Default: a new one.")
@click.option("--stats", is_flag=True, help="Print the time and tokens of each answer.")
@config_file
@node_url
def chat(
    *,
    model: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    stats: bool,
    file: Path | None,
    url: str | None,
) -> None:
    """Talk to a model in the terminal: ctrl-C cancels an answer, /quit leaves."""
    from mlx_worker.cli.chat import Conversation, converse

    asked = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    settings = {key: value for key, value in asked.items() if value is not None}
    conversation = Conversation(node_meant(url, file), settings, _print_piece)
    if system is not None:
        conversation.turns.append({"role": "system", "content": system})
    converse(conversation, stats=stats)


def _print_piece(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


# --- the machine, routers and clients -------------------------------------------------------


@click.command
@config_file
def doctor(*, file: Path | None) -> None:
    """Check this machine for what a node needs, and give advice on what is missing.

    Ends with 1 if a finding is bad.
    """
    from mlx_worker.cli.doctor.report import examine, table_of

    findings = asyncio.run(examine(file))
    _print(table_of(findings))
    sys.exit(1 if any(finding.severity == "bad" for finding in findings) else 0)


@click.command("router-config")
@click.argument("nodes", nargs=-1)
@click.option(
    "--for",
    "reader",
    type=click.Choice([item.value for item in Router]),
    default=Router.JSON.value,
    show_default=True,
    help="Program that reads the list.",
)
@config_file
def router_config(*, nodes: tuple[str, ...], reader: str, file: Path | None) -> None:
    """Print the list of NODES in the format of a router or proxy in front of them.

    NODES are base URLs. Default: the address of the configuration.
    """
    from mlx_worker.cli.client import NodeClient

    remotes = [NodeClient.at(node) for node in nodes] or [node_meant(None, file)]
    click.echo(asyncio.run(router_list(remotes, Router(reader))), nl=False)


@click.command("client-config")
@click.argument("client", type=click.Choice(tuple(CLIENTS)))
@click.option("--model", help="A model's name or alias. Default: the first that the node lists.")
@config_file
@node_url
def client_config(*, client: str, model: str | None, file: Path | None, url: str | None) -> None:
    """Print the settings with which CLIENT uses the running node.

    The settings name the variable of the node's key, never the key. A line on stderr says where
    the settings belong.
    """
    from mlx_worker.cli.client_config import target_of

    chosen = CLIENTS[client]
    target = asyncio.run(target_of(node_meant(url, file), model))
    click.echo(chosen.write(target), nl=False)
    click.echo(f"{chosen.title}: {chosen.place}", err=True)


def _print(table: RenderableType) -> None:
    from rich.console import Console

    Console().print(table)


def _print_json(body: Any) -> None:
    click.echo(json.dumps(body, indent=2))


COMMANDS = (
    status,
    top,
    models,
    logs,
    restart,
    load,
    unload,
    reload,
    warm,
    clear,
    chat,
    doctor,
    router_config,
    client_config,
)
