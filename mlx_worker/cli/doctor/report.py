"""The report of `mlx-worker doctor`: each finding with advice.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from mlx_worker.cli.doctor import (
    blas_check,
    host_checks,
    kv_checks,
    machine,
    node_checks,
    service_checks,
)
from mlx_worker.cli.doctor.finding import Finding, bad, ok
from mlx_worker.config.load import find_default_file, load_config, no_default_file
from mlx_worker.errors import WorkerError
from mlx_worker.service.subprocess_runner import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlx_worker.config.schema import Config

_COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}
_NONE_YET = "`mlx-worker init` writes one; or name another with --config"
_SEVERITY_WIDTH, _SUBJECT_WIDTH = 6, 13


async def examine(file: Path | None, *, ask_hosts: bool = False) -> list[Finding]:
    """Return all findings: about this machine, about the configuration, and about what it needs.

    `ask_hosts`: other hosts that compute models are asked too.
    """
    config, finding = _configuration(file)
    findings = [
        machine.python(),
        machine.mlx(run),
        blas_check.blas(config),
        machine.open_files(),
        finding,
    ]
    findings += machine.wired_limit(run, config)
    if config is not None:
        findings += node_checks.models(config)
        findings += [
            node_checks.memory(config),
            node_checks.disk(config),
            kv_checks.kv_on_disk(config),
            await node_checks.port(config),
        ]
        if ask_hosts:
            findings += await host_checks.hosts(config, run)
    findings += machine.services(run)
    if config is not None:
        findings += service_checks.service_files(run, config)
        findings += service_checks.of_macos(run, config)
    return [*findings, machine.environment()]


def _configuration(file: Path | None) -> tuple[Config | None, Finding]:
    found = file or find_default_file()
    if found is None or not found.exists():
        said = no_default_file() if found is None else f"there is no {found}"
        return None, bad("configuration", said, _NONE_YET)
    try:
        return load_config(found), ok("configuration", str(found))
    except WorkerError as error:
        return None, bad("configuration", str(error), "correct the file, then `mlx-worker check`")


def as_dicts(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Return the findings for programs."""
    return [
        {
            "severity": finding.severity,
            "subject": finding.subject,
            "found": finding.said,
            "advice": finding.advice,
        }
        for finding in findings
    ]


def lines_of(findings: Sequence[Finding]) -> Iterator[Text]:
    """Yield a line for each finding, and the advice beneath it."""
    for finding in findings:
        yield Text.assemble(
            (f"{finding.severity:<{_SEVERITY_WIDTH}}", _COLOURS[finding.severity]),
            f"{finding.subject:<{_SUBJECT_WIDTH}}  {finding.said}",
        )
        if finding.advice:
            yield Text(f"{'':{_SEVERITY_WIDTH}}→ {finding.advice}")
