"""The command line.

Every command ends with an exit code of sysexits.h: 0 done, 2 wrong usage, 65 a broken model or
download, 66 an unknown model, 69 an address in use, or a source or node that cannot be reached, 70
no model served for `exit_when_failed_for`, 71 a failure of the service manager, 73 a failure of the
disk, 75 not possible now, 77 a wrong or missing key, 78 an invalid configuration. Errors are one
line on stderr.

A command imports what it needs when it is called: a node that starts does not wait for tables and
progress bars. [front]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mlx_worker.cli.model_files.fits import fits
from mlx_worker.cli.model_files.init import init
from mlx_worker.cli.model_files.pull import pull
from mlx_worker.cli.node_commands import COMMANDS
from mlx_worker.cli.options import A_PATH, config_file, configuration, models_dir
from mlx_worker.cli.version import version_option
from mlx_worker.errors import WorkerError
from mlx_worker.service.commands import service
from mlx_worker.system.standard_streams import fill_closed_streams

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from mlx_worker.api.middleware.credentials import Credentials
    from mlx_worker.config.schema import Config
    from mlx_worker.models.resolve import PlannedModel

NAME = "mlx-worker"
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

rounds = click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of measurements of each.",
)


def main() -> None:
    """Run a command; known errors become one line and their exit code."""
    fill_closed_streams()
    try:
        app(prog_name=NAME, standalone_mode=False)
    except WorkerError as error:
        _fail(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)


@click.group(NAME, context_settings=SETTINGS)
@version_option
def app() -> None:
    """Serve MLX language models on one node."""


for command in COMMANDS:
    app.add_command(command)
app.add_command(service)
app.add_command(fits)
app.add_command(init)
app.add_command(pull)


@app.command
@config_file
def serve(*, file: Path | None) -> None:
    """Run the node in the foreground, until SIGTERM or ctrl-C."""
    from mlx_worker.cli.process_end import reported_end
    from mlx_worker.logs import set_up
    from mlx_worker.server import serve as serve_node
    from mlx_worker.service.log_file import with_the_services_file

    with reported_end():
        loaded = configuration(file)
        set_up(with_the_services_file(loaded.log))
        _run(serve_node(loaded))


@app.command
@click.argument("file", type=A_PATH, required=False)
def check(*, file: Path | None) -> None:
    """Validate the configuration in FILE, else the one of `serve`, and print what would run."""
    from mlx_worker.api.middleware.credentials import Credentials
    from mlx_worker.models.resolve import plan

    config = configuration(file)
    _print_plan(config, plan(config), Credentials(config.server))


@app.command
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="0 lets the system choose a free port.",
)
@click.option("--once", is_flag=True, help="Exit after the answer.")
@models_dir
def demo(*, port: int, once: bool, models_dir: Path | None) -> None:
    """Serve a small real model, ask one question, and continue to serve."""
    from mlx_worker.cli.demo import run_demo
    from mlx_worker.cli.model_files.pull import fetch
    from mlx_worker.cli.process_end import reported_end
    from mlx_worker.config.schema import LogConfig
    from mlx_worker.logs import set_up
    from mlx_worker.models.store import default_models_dir

    where = models_dir or default_models_dir()
    fetch("smollm2-135m", where, None)
    with reported_end():
        set_up(LogConfig(level="warning"))
        _run(run_demo(where, port, once=once))


@app.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print the completion script of SHELL."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three"
    click.echo(kind(app, {}, NAME, "_MLX_WORKER_COMPLETE").source())


@app.group(invoke_without_command=True)
@click.option("--model", type=A_PATH, help="A model's folder. Default: small synthetic models.")
@click.option("--url", help="URL of a running node; default: start a node.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    help="Another server to compare with: mlx_lm.server or vllm-mlx.",
)
@click.option(
    "--scenario", "scenarios", multiple=True, help="Run only this one; may be given several times."
)
@rounds
@click.option("--json", type=A_PATH, help="Write every sample to this JSON file.")
@click.option("--plots", type=A_PATH, help="Draw SVG files into this folder.")
@click.pass_context
def bench(context: click.Context, /, **options: Any) -> None:
    """Measure a node, the engine alone and other servers, side by side."""
    if context.invoked_subcommand is not None:
        return
    from mlx_worker.bench.cli import BenchOptions, run

    run(BenchOptions(**options))


@bench.command
@click.option(
    "--into", type=A_PATH, required=True, help="Folder for plots, figures and their tables."
)
@click.option(
    "--curve", "names", multiple=True, help="Run only this one; may be given several times."
)
@rounds
@click.option("--up-to", type=click.IntRange(min=1), help="Largest size that is measured.")
def growth(**options: Any) -> None:
    """Measure how costs grow with the number of streams, models, sessions and cache entries."""
    from mlx_worker.bench.scaling.cli import ScalingOptions, run

    run(ScalingOptions(**options))


def _run(node: Coroutine[Any, Any, None]) -> None:
    import uvloop

    from mlx_worker.system.process_titles import set_title

    set_title("front")
    uvloop.run(node)


def _print_plan(config: Config, planned: list[PlannedModel], credentials: Credentials) -> None:
    server = config.server
    drain = config.supervisor.drain_timeout
    click.echo(f"listens on {server.host} port {server.port}; drains for {drain} s")
    names = ", ".join(name for name, _ in credentials.keys.hashes)
    click.echo(
        f"{'TLS' if credentials.tls else 'no TLS'}; "
        f"{f'requires a key: {names}' if names else 'requires no key'}"
        f"{'; no key needed from ' if server.trusted else ''}{', '.join(server.trusted)}"
    )
    for item in planned:
        model, folder = item.config, item.inspected
        names = ", ".join((model.id, *model.aliases))
        rest = "  answers for unknown names" if model.default else ""
        click.echo(
            f"{names}{rest}\n"
            f"  {folder.path}: {folder.model_type}, {folder.weight_bytes / 1e6:.1f} MB of weights\n"
            f"  context {item.context_length or 'without a limit'}, "
            f"{model.max_concurrency} at once, {model.max_queue} may wait, "
            f"{'started at boot' if model.preload else 'started on demand'}"
        )
        for path in model.warm:
            click.echo(f"  warms {path}")
        for warning in item.warnings:
            click.echo(f"  warning: {warning}")


def _fail(error: WorkerError) -> NoReturn:
    sys.stderr.write(f"mlx-worker: {error}\n")
    sys.exit(error.exit_code)
