"""The command `mlx-worker rank`: what a front starts for each further process of a model.

[front]
"""

from __future__ import annotations

import sys

import click


@click.command
@click.option("--describe", is_flag=True, help="Tell as JSON what this host has, and end.")
def rank(*, describe: bool) -> None:
    """Compute a part of a model for a node: nodes start this.

    A node starts this command itself, for a model with several `ranks` or `hosts`. It ends when the
    node closes the pipe or is silent for 20 seconds, and the model's process with it.
    """
    if describe:
        from mlx_worker.cli.doctor.host_facts import describe as describe_host

        describe_host()
        return
    from mlx_worker.supervisor.process.launch.keeper import keep_rank

    sys.exit(keep_rank())
