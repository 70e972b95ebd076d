"""The commands that show a node to its operators, and the conversation with a model.

This module is imported with every command, so a function imports what it alone needs. [front]
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from mlx_worker.cli.client_blocks import CLIENTS
from mlx_worker.cli.model_arguments import a_model, maybe_a_model, model_option
from mlx_worker.cli.options import (
    as_json,
    config_file,
    node_meant,
    on_node,
    read_node_url,
)
from mlx_worker.cli.router_config import Listen, Router, router_list
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlx_worker.cli.client import NodeClient
    from mlx_worker.cli.reports.logs import LogFilter


# --- reports ------------------------------------------------------------------------------


@click.command
@as_json
@on_node
def status(*, as_json: bool, node: NodeClient) -> None:
    """Show the status of the node, also as the exit code.

    Exit codes: 0 healthy, 3 degraded, 4 unhealthy, 5 initializing, 6 shutting down, 69 not
    reachable, 77 wrong key. `cached` is the share of prompt tokens that were in the prompt cache,
    `ms` the mean time of a request.
    """
    from mlx_worker.cli.reports.output import print_json, print_lines, terminal_width
    from mlx_worker.cli.reports.status import EXIT_CODES, overview

    body = asyncio.run(node.health())
    if as_json:
        print_json(body)
    else:
        print_lines(*overview(node.url, body, width=terminal_width()))
    sys.exit(EXIT_CODES.get(body["status"], 1))


@click.command
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two updates.",
)
@click.option("-n", "looks", type=click.IntRange(min=1), help="Number of updates; then end.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each update.")
@on_node
def top(*, every: float, looks: int | None, as_json: bool, node: NodeClient) -> None:
    """Show the node live, with tokens per second.

    ctrl-C ends it. In a pipe, every update is printed below the one before.
    """
    from mlx_worker.cli.reports.top import watch, watch_json

    asyncio.run((watch_json if as_json else watch)(node, every, looks))


@click.command
@as_json
@on_node
def models(*, as_json: bool, node: NodeClient) -> None:
    """List the models of the node."""
    from mlx_worker.cli.reports.models import models_listing
    from mlx_worker.cli.reports.output import print_json, print_lines, terminal_width

    if as_json:
        print_json(asyncio.run(node.get("/v1/models")))
    else:
        print_lines(*models_listing(asyncio.run(node.models())).lines(terminal_width()))


@click.command
@a_model
@as_json
@on_node
def inspect(*, model: str, as_json: bool, node: NodeClient) -> None:
    """Show everything that the node reports of a model."""
    from mlx_worker.cli.reports.model import facts_in_words, inspected
    from mlx_worker.cli.reports.output import pairs, print_json, print_lines

    facts = asyncio.run(inspected(node, model))
    if as_json:
        print_json(facts)
    else:
        print_lines(*pairs(facts_in_words(facts)))


@click.command
@as_json
@on_node
def ps(*, as_json: bool, node: NodeClient) -> None:
    """List the processes of the node.

    They are the front, a process for each model, spares that wait for a model, helpers that try
    costly grammars, and the parser of large bodies. On macOS, an assertion keeps the machine awake.
    """
    from mlx_worker.cli.reports.output import print_json, print_lines, terminal_width
    from mlx_worker.cli.reports.processes import processes_listing

    report = asyncio.run(node.get("/admin/processes"))
    if as_json:
        print_json(report)
    else:
        print_lines(*processes_listing(report["processes"]).lines(terminal_width()))


def _since(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    from mlx_worker.cli.reports.logs import read_since

    try:
        return None if text is None else read_since(text, time.time())
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@click.command
@maybe_a_model
@click.option("--follow", "-f", is_flag=True, help="Continue with new lines as they are written.")
@click.option(
    "-n",
    "last",
    type=click.IntRange(min=0),
    help="Number of lines, the last ones. Default: 100, and with --since all.",
)
@click.option(
    "--since",
    metavar="TIME",
    callback=_since,
    help="Only lines from then on: 10m, 2h, 14:05 or 2026-02-03T14:05.",
)
@click.option(
    "--level",
    type=click.Choice(("debug", "info", "warning", "error")),
    help="Only lines of this level or above.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each line.")
@on_node
def logs(
    *,
    model: str | None,
    follow: bool,
    last: int | None,
    since: float | None,
    level: str | None,
    as_json: bool,
    node: NodeClient,
) -> None:
    """Print the log of the node, or of a model's processes.

    The node keeps its last 1000 lines, and the last 1000 of each model.
    """
    from mlx_worker.cli.reports.logs import DEFAULT_LINES, LogFilter

    wanted = DEFAULT_LINES if last is None and since is None else last
    chosen = LogFilter(level, since, wanted)
    asyncio.run(_print_lines(node, model, chosen, follow=follow, as_json=as_json))


async def _print_lines(
    node: NodeClient, model: str | None, chosen: LogFilter, *, follow: bool, as_json: bool
) -> None:
    from mlx_worker.cli.client.model_names import check_name
    from mlx_worker.cli.reports.logs import following, format_line, kept_lines
    from mlx_worker.cli.reports.output import print_json_line

    def show(line: Mapping[str, Any]) -> None:
        if as_json:
            print_json_line(line)
        else:
            click.echo(format_line(line))

    await check_name(node, model)
    kept = await kept_lines(node, model)
    for line in chosen.chosen(kept):
        show(line)
    if follow:
        async for line in following(node, model, kept[-1]["id"] if kept else 0):
            if chosen.matches(line):
                show(line)


# --- conversation ------------------------------------------------------------------------------


@click.command
@maybe_a_model
@click.option("--system", help="System prompt of the conversation.")
@click.option("--temperature", type=float, help="Default: the model's.")
@click.option("--max-tokens", type=int, help="Default: the model's.")
@click.option("--seed", type=int, help="Default: a new one.")
@click.option("--stats", is_flag=True, help="Print the time and tokens of each answer.")
@on_node
def chat(
    *,
    model: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    stats: bool,
    node: NodeClient,
) -> None:
    """Talk to a model in the terminal.

    ctrl-C cancels an answer; /quit or ctrl-D leaves.
    """
    from mlx_worker.cli.chat import Conversation, converse

    asked = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    settings = {key: value for key, value in asked.items() if value is not None}
    conversation = Conversation(node, settings, _print_piece)
    if system is not None:
        conversation.turns.append({"role": "system", "content": system})
    converse(conversation, stats=stats)


def _print_piece(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


# --- the machine, routers and clients -------------------------------------------------------


@click.command
@click.option("--hosts", is_flag=True, help="Ask the other hosts that compute models as well.")
@as_json
@config_file
def doctor(*, hosts: bool, as_json: bool, file: Path | None) -> None:
    """Check this machine for what a node needs.

    Each finding that is not good has advice. Ends with 1 if a finding is bad.
    """
    from mlx_worker.cli.doctor.report import as_dicts, examine, lines_of
    from mlx_worker.cli.reports.output import print_json, print_lines

    findings = asyncio.run(examine(file, ask_hosts=hosts))
    if as_json:
        print_json({"findings": as_dicts(findings)})
    else:
        print_lines(*lines_of(findings))
    sys.exit(1 if any(finding.severity == "bad" for finding in findings) else 0)


def _node_urls(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(read_node_url(context, parameter, text) for text in texts)


def _listen(context: click.Context, parameter: click.Parameter, text: str) -> Listen:
    try:
        return Listen.read(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


@click.command("router-config")
@click.argument("nodes", nargs=-1, callback=_node_urls)
@click.option(
    "--for",
    "reader",
    type=click.Choice([item.value for item in Router]),
    default=Router.JSON.value,
    show_default=True,
    help="Program that reads the list.",
)
@click.option(
    "--listen",
    metavar="[HOST:]PORT",
    callback=_listen,
    default="8080",
    show_default=True,
    help="Where the router listens. Without HOST: at all addresses of its machine.",
)
@config_file
def router_config(
    *, nodes: tuple[str, ...], reader: str, listen: Listen, file: Path | None
) -> None:
    """Print a list of nodes for a router or proxy.

    NODES are base URLs, or HOST:PORT. Default: the address of the configuration.
    """
    from mlx_worker.cli.client import NodeClient

    remotes = [NodeClient.at(node) for node in nodes] or [node_meant(None, file)]
    try:
        listed = asyncio.run(router_list(remotes, Router(reader), listen))
    except InvalidRequest as error:
        raise click.BadParameter(error.message) from error
    click.echo(listed, nl=False)


@click.command("client-config")
@click.argument("client", type=click.Choice(tuple(CLIENTS)))
@model_option(help="A model's name or alias. Default: the first that the node lists.")
@on_node
def client_config(*, client: str, model: str | None, node: NodeClient) -> None:
    """Print the settings with which CLIENT uses the node.

    The settings name the variable of the node's key, never the key. A line on stderr says where
    the settings belong.
    """
    from mlx_worker.cli.client_config import target_of

    chosen = CLIENTS[client]
    target = asyncio.run(target_of(node, model))
    click.echo(chosen.write(target), nl=False)
    click.echo(f"{chosen.title}: {chosen.place}", err=True)
    if advice := chosen.advice(target):
        click.echo(f"warning: {advice}", err=True)


NODE_COMMANDS = (
    status,
    top,
    models,
    inspect,
    ps,
    logs,
    chat,
    doctor,
    router_config,
    client_config,
)
