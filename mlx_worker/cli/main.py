"""The command line.

Every command ends with an exit code of sysexits.h: 0 done, 1 another error of the node, a defect,
or output that nothing reads, 2 wrong usage, 65 a broken model, download or record, 66 an unknown
model or request, 69 an address in use, or a source or node that cannot be reached, 70 no model
served for `exit_when_failed_for`, 71 a failure of the service manager, 73 a failure of the disk,
75 not possible now or not in time, 77 a wrong or missing key, 78 an invalid configuration, 130
ended by ctrl-C. Errors are one line on stderr; `check` writes one for each problem.

A command imports what it needs when it is called: a node that starts does not wait for tables and
progress bars. [front]
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mlx_worker.cli.cache_commands import cache
from mlx_worker.cli.model_commands import MODEL_COMMANDS
from mlx_worker.cli.model_files.fits import fits
from mlx_worker.cli.model_files.init import init
from mlx_worker.cli.model_files.pull import pull
from mlx_worker.cli.node_commands import NODE_COMMANDS
from mlx_worker.cli.options import A_PATH, as_json, config_file, configuration, models_dir
from mlx_worker.cli.rank import rank
from mlx_worker.cli.version import version_option
from mlx_worker.config.load import default_file
from mlx_worker.errors import WorkerError
from mlx_worker.service.commands import service
from mlx_worker.system.garbage import imports_kept
from mlx_worker.system.standard_streams import fill_closed_streams

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path


NAME = "mlx-worker"
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

OUTPUT_NOT_TAKEN = 1
"""Exit code of a command whose output was closed, as click has it."""

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
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack a character of a table
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run_command()
    except BrokenPipeError:
        # The reader has what it wanted, as `head` has. The rest must not fail at exit once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUTPUT_NOT_TAKEN)


def _run_command() -> None:
    try:
        try:
            app(prog_name=NAME, standalone_mode=False)
        finally:
            sys.stdout.flush()
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


for command in (*NODE_COMMANDS, *MODEL_COMMANDS):
    app.add_command(command)
app.add_command(service)
app.add_command(fits)
app.add_command(init)
app.add_command(pull)
app.add_command(cache)
app.add_command(rank)


@app.command
@config_file
def serve(*, file: Path | None) -> None:
    """Run the node in the foreground, until SIGTERM or ctrl-C."""
    with imports_kept():
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
@click.option("--config", "-c", "named", type=A_PATH, help="The same as FILE.")
@as_json
def check(*, file: Path | None, named: Path | None, as_json: bool) -> None:
    """Check the configuration and print what would run.

    FILE is a configuration; default: that of `serve`. Every problem is a line on stderr, and the
    exit code is that of the first one.
    """
    from mlx_worker.cli.check import check_file

    sys.exit(check_file(file or named or default_file(), as_json=as_json))


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
    """Serve a small real model and ask one question.

    The demo continues to serve until ctrl-C, unless --once is set.
    """
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
    """Measure a node, its engine and other servers.

    They are measured side by side, so that the machine's other work meets all of them.
    """
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
    """Measure how costs grow with load.

    The load is the number of streams, models, sessions and cache entries.
    """
    from mlx_worker.bench.scaling.cli import ScalingOptions, run

    run(ScalingOptions(**options))


def _run(node: Coroutine[Any, Any, None]) -> None:
    import uvloop

    from mlx_worker.system.process_titles import set_title

    set_title("front")
    uvloop.run(node)


def _fail(error: WorkerError) -> NoReturn:
    sys.stderr.write(f"mlx-worker: {error}\n")
    sys.exit(error.exit_code)
