"""The command `mlx-worker fits`.

This module is imported with every command, so a function imports what it alone needs. [front]
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from mlx_worker.cli.options import as_json, config_file, configuration_if_any, models_dir
from mlx_worker.config.sizes import MemoryLimit

if TYPE_CHECKING:
    from pathlib import Path

EXIT_CODES: Final = {True: 0, False: 1, None: 3}
"""The exit code of each answer: fits, does not fit, unknown."""


class _MemoryLimitType(click.ParamType[MemoryLimit]):
    name = "SIZE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> MemoryLimit:
        try:
            return MemoryLimit.read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command
@click.argument("model")
@click.option("--context", type=click.IntRange(min=1), help="Tokens of each request, with answer.")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Requests that run at once.",
)
@click.option(
    "--memory-limit",
    type=_MemoryLimitType(),
    help="Memory for models, as in 36GiB, in place of this machine's and the configuration's.",
)
@as_json
@models_dir
@config_file
def fits(
    *,
    model: str,
    context: int | None,
    rows: int,
    memory_limit: MemoryLimit | None,
    as_json: bool,
    models_dir: Path | None,
    file: Path | None,
) -> None:
    """Tell whether MODEL fits in memory.

    MODEL is a model's folder, a config.json alone, an id of the configuration, or a name in the
    models folder. The answer has the largest context and the number of requests that fit at once.
    No weights are loaded. Exit codes: 0 fits, 1 does not fit, 3 unknown, 65 no model
    that mlx_lm can build, 66 no such model.
    """
    from mlx_worker.cli.model_files.fits_report import lines, report_of
    from mlx_worker.cli.model_files.memory_needs import Where, fit_of
    from mlx_worker.supervisor.memory.fit import Question

    where = Where(configuration_if_any(file), models_dir, memory_limit)
    found = fit_of(model, where)
    question = Question(rows, context)
    if as_json:
        click.echo(json.dumps(report_of(found, question), indent=2))
    else:
        click.echo("\n".join(lines(found, question)))
    sys.exit(EXIT_CODES[found.fit.answer(question)])
