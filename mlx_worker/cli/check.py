"""The command `mlx-worker check`: every problem of a configuration, or what would run.

[front]
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mlx_worker.cli.doctor.kv_checks import kv_on_disk
from mlx_worker.cli.reports.output import print_json
from mlx_worker.config.problems import find_problems
from mlx_worker.config.sizes import in_words
from mlx_worker.errors import WorkerError
from mlx_worker.models.resolve import missing_warm_files, plan_model
from mlx_worker.security.credentials import Credentials
from mlx_worker.supervisor.blas.preparation import expected_weight_types

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.config.problems import FileProblems
    from mlx_worker.config.schema import Config
    from mlx_worker.models.resolve import PlannedModel


def check_file(file: Path, *, as_json: bool) -> int:
    """Print what the configuration would run, or else its problems; return the exit code."""
    report = find_problems(file)
    problems: list[WorkerError] = list(report.problems)
    planned: list[PlannedModel] = []
    credentials = None
    if report.config is not None:
        problems += _problems_of_files(report.config, report)
        credentials, problem = _credentials(report.config, report)
        problems += [problem] if problem else []
        planned = _plan(report.config, report, problems)
    if as_json:
        print_json(_as_json(report.config, planned, credentials, problems))
    elif problems:
        for problem in problems:
            sys.stderr.write(f"mlx-worker: {problem}\n")
    else:
        assert report.config is not None, "a file that cannot be read is a problem"
        assert credentials is not None, "credentials that cannot be read are a problem"
        _print_plan(report.config, planned, credentials)
    return problems[0].exit_code if problems else 0


# --- problems ---------------------------------------------------------------------------


def _problems_of_files(config: Config, report: FileProblems) -> list[WorkerError]:
    return [
        error for error in missing_warm_files(config) if not report.is_broken(error.param or "")
    ]


def _credentials(
    config: Config, report: FileProblems
) -> tuple[Credentials | None, WorkerError | None]:
    """Return the keys and the certificate, or the problem of their files."""
    if any(_is_about_server(problem) for problem in report.problems):
        return None, None
    try:
        return Credentials(config.server), None
    except WorkerError as error:
        return None, error


def _is_about_server(problem: WorkerError) -> bool:
    return (problem.param or "").startswith("server")


def _plan(config: Config, report: FileProblems, problems: list[WorkerError]) -> list[PlannedModel]:
    """Return the models whose folders can be used, and add a problem for each other folder."""
    planned = []
    types = expected_weight_types(config)
    for i, model in enumerate(config.models):
        if report.is_broken(f"models[{i}]"):
            continue
        try:
            planned.append(plan_model(config, model, types))
        except WorkerError as error:
            problems.append(error)
    return planned


# --- what would run ---------------------------------------------------------------------


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
    click.echo(_kv_on_disk(config))
    for item in planned:
        model, folder = item.config, item.inspected
        names = ", ".join((model.id, *model.aliases))
        rest = "  answers for unknown names" if model.default else ""
        click.echo(
            f"{names}{rest}\n"
            f"  {folder.path}: {folder.model_type}, {folder.weight_bytes / 1e6:.1f} MB of weights"
            f"{f' in {folder.dtype}' if folder.dtype else ''}\n"
            f"  context {item.context_length or 'without a limit'}, "
            f"{model.max_concurrency} at once, {model.max_queue} may wait, "
            f"{'starts with the node' if model.preload else 'starts with its first request'}"
        )
        if item.hosts:
            click.echo(f"  {_over_hosts(item)}")
        for path in model.warm:
            click.echo(f"  warms {path}")
        for warning in item.warnings:
            click.echo(f"  warning: {warning}")


def _over_hosts(item: PlannedModel) -> str:
    """Return what a configuration alone says of the hosts of a model."""
    model, hosts = item.config, item.hosts
    names = ", ".join(f"{host.name} {host.address}".rstrip() for host in hosts)
    part = in_words(item.inspected.weight_bytes // len(hosts))
    return (
        f"split over {len(hosts)} hosts ({model.split}, {model.transport}): {names}; about {part}"
        " of weights on each; `mlx-worker doctor --hosts` asks them"
    )


def _kv_on_disk(config: Config) -> str:
    finding = kv_on_disk(config)
    return f"{finding.subject}: {finding.said}" + (
        f"\n  warning: {finding.advice}" if finding.advice else ""
    )


def _as_json(
    config: Config | None,
    planned: list[PlannedModel],
    credentials: Credentials | None,
    problems: list[WorkerError],
) -> dict[str, Any]:
    return {
        "file": str(config.file) if config else None,
        "host": config.server.host if config else None,
        "port": config.server.port if config else None,
        "tls": bool(credentials and credentials.tls),
        "keys": [name for name, _ in credentials.keys.hashes] if credentials else [],
        "problems": [
            {"message": problem.message, "key": problem.param, "exitCode": problem.exit_code}
            for problem in problems
        ],
        "models": [_model_as_json(item) for item in planned],
    }


def _model_as_json(item: PlannedModel) -> dict[str, Any]:
    model, folder = item.config, item.inspected
    return {
        "id": model.id,
        "aliases": list(model.aliases),
        "default": model.default,
        "folder": str(folder.path),
        "modelType": folder.model_type,
        "weightBytes": folder.weight_bytes,
        "dtype": folder.dtype or None,
        "contextLength": item.context_length,
        "preload": model.preload,
        "hosts": list(model.hosts),
        "warm": [str(path) for path in model.warm],
        "warnings": list(item.warnings),
    }
