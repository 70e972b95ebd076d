"""The operator's commands, as the command line has them.

Imported with every command, so what one of them alone needs it imports itself. [front]
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlx_worker.operate.router_config import Router, written
from mlx_worker.options import AsJson, ConfigFile, NodeUrl, node_meant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlx_worker.control import RemoteNode

commands = typer.Typer()

ModelName = Annotated[str, typer.Argument(help="Its name or alias in the configuration.")]
MaybeModel = Annotated[
    str | None, typer.Argument(help="One model, by name or alias.", show_default=False)
]


# --- looking ------------------------------------------------------------------------------


@commands.command()
def status(*, json: AsJson = False, config: ConfigFile = None, url: NodeUrl = None) -> None:
    """Show how the running node is; the exit code says it too.

    0 healthy, 3 degraded, 4 unhealthy, 5 initializing, 6 going down, 69 out of reach, 77 wrong key.
    """
    from mlx_worker.operate.status import EXIT_CODES, overview

    node = node_meant(url, config)
    body = asyncio.run(node.health())
    if json:
        _print_json(body)
    else:
        _print(overview(node.url, body))
    raise typer.Exit(EXIT_CODES[body["status"]])


@commands.command()
def top(
    *,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    looks: Annotated[
        int | None,
        typer.Option("-n", min=1, help="End after so many looks.", show_default=False),
    ] = None,
    config: ConfigFile = None,
    url: NodeUrl = None,
) -> None:
    """Show the running node live, with tokens per second, until ctrl-C."""
    from rich.console import Console

    from mlx_worker.operate.top import watch

    asyncio.run(watch(node_meant(url, config), every, Console(), looks))


@commands.command()
def models(*, json: AsJson = False, config: ConfigFile = None, url: NodeUrl = None) -> None:
    """List the models of the running node."""
    from mlx_worker.operate.models import table_of

    listed = asyncio.run(node_meant(url, config).get("/v1/models"))
    if json:
        _print_json(listed)
    else:
        _print(table_of(listed["data"]))


@commands.command()
def logs(
    model: MaybeModel = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with lines as they are written.")
    ] = False,
    config: ConfigFile = None,
    url: NodeUrl = None,
) -> None:
    """Print the running node's log lines, of all models or of one."""
    asyncio.run(_print_lines(node_meant(url, config), model, follow=follow))


async def _print_lines(node: RemoteNode, model: str | None, *, follow: bool) -> None:
    from mlx_worker.operate.logs import following, last_lines

    if follow:
        async for line in following(node, model):
            typer.echo(line)
    else:
        for line in await last_lines(node, model):
            typer.echo(line)


# --- commanding ---------------------------------------------------------------------------


@commands.command()
def restart(model: ModelName, config: ConfigFile = None, url: NodeUrl = None) -> None:
    """Give a model of the running node a new process, also one that was given up."""
    _act(node_meant(url, config), model, "restart", "gets a new process")


@commands.command()
def load(model: ModelName, config: ConfigFile = None, url: NodeUrl = None) -> None:
    """Have the running node load a model, also one that was given up."""
    _act(node_meant(url, config), model, "load", "is loaded")


@commands.command()
def unload(model: ModelName, config: ConfigFile = None, url: NodeUrl = None) -> None:
    """Have the running node end a model's process until it is needed; not while it is at work."""
    _act(node_meant(url, config), model, "unload", "leaves memory")


def _act(node: RemoteNode, model: str, verb: str, what: str) -> None:
    asyncio.run(node.act(model, verb))
    typer.echo(f"{model} {what}; `mlx-worker status` tells how it goes")


@commands.command()
def reload(config: ConfigFile = None, url: NodeUrl = None) -> None:
    """Have the running node read its configuration again; models that did not change go on."""
    for what, names in asyncio.run(node_meant(url, config).reload()).items():
        if names:
            typer.echo(f"{what.replace('_', ' ')}: {', '.join(names)}")


@commands.command()
def warm(
    file: Annotated[typer.FileText, typer.Argument(help="A system prompt; - is standard input.")],
    model: Annotated[
        str | None, typer.Option(help="Default: the default model.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    url: NodeUrl = None,
) -> None:
    """Have a system prompt prefilled and kept, so that requests with it start at once."""
    warmed = asyncio.run(node_meant(url, config).warm(file.read(), model))
    typer.echo(f"{warmed['model']}: {warmed['tokens']} tokens, {warmed['systemPromptHash']}")


@commands.command()
def clear(model: MaybeModel = None, config: ConfigFile = None, url: NodeUrl = None) -> None:
    """Have cached prompts forgotten, of all models or of one."""
    cleared = asyncio.run(node_meant(url, config).clear(model))
    typer.echo(f"cleared: {', '.join(cleared)}")


# --- talking ------------------------------------------------------------------------------


@commands.command()
def chat(
    model: MaybeModel = None,
    *,
    system: Annotated[
        str | None, typer.Option(help="The system prompt.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Default: the model's.", show_default=False)
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Default: the model's.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Default: a new one.", show_default=False)
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say what each answer took.")] = False,
    config: ConfigFile = None,
    url: NodeUrl = None,
) -> None:
    """Talk to a model in the terminal: ctrl-C cancels an answer, /quit leaves."""
    from mlx_worker.operate.chat import Conversation, converse

    asked = {"model": model, "temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    settings = {key: value for key, value in asked.items() if value is not None}
    conversation = Conversation(node_meant(url, config), settings, _say)
    if system is not None:
        conversation.turns.append({"role": "system", "content": system})
    converse(conversation, stats=stats)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


# --- the machine and its neighbours -------------------------------------------------------


@commands.command()
def doctor(config: ConfigFile = None) -> None:
    """Look this machine over: what a node needs, and what to do where it is not there.

    Ends with 1 where something is bad.
    """
    from mlx_worker.operate.doctor import examine, table_of

    findings = asyncio.run(examine(config))
    _print(table_of(findings))
    raise typer.Exit(1 if any(it.word == "bad" for it in findings) else 0)


@commands.command("router-config")
def router_config(
    nodes: Annotated[
        list[str] | None,
        typer.Argument(
            help="The nodes' base URLs. Default: what the configuration listens on.",
            show_default=False,
        ),
    ] = None,
    *,
    for_: Annotated[Router, typer.Option("--for", help="Who is to read it.")] = Router.JSON,
    config: ConfigFile = None,
) -> None:
    """Print the list of nodes as a router or proxy in front of them reads it."""
    from mlx_worker.control import RemoteNode

    remotes = [RemoteNode.at(it) for it in nodes or []] or [node_meant(None, config)]
    typer.echo(asyncio.run(written(remotes, for_)), nl=False)


def _print(table: RenderableType) -> None:
    from rich.console import Console

    Console().print(table)


def _print_json(body: Any) -> None:
    typer.echo(json.dumps(body, indent=2))
