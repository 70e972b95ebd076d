"""Findings about what a configuration needs.

[front]
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from mlx_worker.cli.client import NodeClient, url_of
from mlx_worker.cli.doctor.finding import Finding, bad, ok, warn
from mlx_worker.cli.doctor.machine import memory_now
from mlx_worker.config.sizes import in_words
from mlx_worker.errors import AddressInUse, NodeUnreachable, WorkerError
from mlx_worker.listening import listen
from mlx_worker.models.resolve import models_dir_of, plan
from mlx_worker.supervisor import settings
from mlx_worker.supervisor.blas.preparation import expected_weight_types
from mlx_worker.supervisor.memory.policy import expected_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.config.schema import Config
    from mlx_worker.models.resolve import PlannedModel

LITTLE_DISK = 5 << 30


def models(config: Config) -> list[Finding]:
    """Check each model's folder, up to the first bad one."""
    try:
        planned = plan(config, expected_weight_types(config))
    except WorkerError as error:
        return [bad("models", str(error), "`mlx-worker pull`, or correct the path")]
    return [_of_model(item) for item in planned]


def _of_model(planned: PlannedModel) -> Finding:
    folder = planned.inspected
    subject = f"model {planned.config.id}"
    said = f"{folder.path}: {folder.model_type}, {in_words(folder.weight_bytes)}"
    said += f" in {folder.dtype}" if folder.dtype else ""
    if planned.warnings:
        return warn(
            subject, "; ".join((said, *planned.warnings)), "docs/reference/model-folders.md"
        )
    return ok(subject, said)


def memory(config: Config) -> Finding:
    """Check that the models that start with the node fit in memory together."""
    limit = settings.memory_limit(config.supervisor)
    try:
        planned = plan(config, expected_weight_types(config))
        needed = sum(expected_bytes(item) for item in planned if item.config.preload)
    except WorkerError:
        needed = 0  # `models` reports this
    said = (
        f"{memory_now()}; models may take {in_words(limit)}, "
        f"those that start with the node need {in_words(needed)}"
    )
    if needed > limit:
        advice = "set preload = false for a model: its first request starts the model"
        return warn("memory", said, advice)
    return ok("memory", said)


def disk(config: Config) -> Finding:
    """Check that the disk has room for more models."""
    folder = models_dir_of(config)
    try:
        free = shutil.disk_usage(_existing(folder)).free
    except OSError as error:
        return warn("disk", f"{folder}: {error.strerror}", "make the folder readable")
    said = f"{folder}, {in_words(free)} free"
    if free < LITTLE_DISK:
        return warn("disk", said, "little room for another model")
    return ok("disk", said)


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


async def port(config: Config) -> Finding:
    """Check that the port is free, or that a node has it."""
    where = f"{config.server.host} port {config.server.port}"
    try:
        for sock in listen(config.server):
            sock.close()
    except AddressInUse as error:
        return await _user_of_port(config, str(error))
    return ok("port", f"{where} is free")


async def _user_of_port(config: Config, problem: str) -> Finding:
    url = url_of(config.server)
    try:
        body = await NodeClient.of(config.server).health()
    except NodeUnreachable:
        return bad("port", problem, "stop the program that has it, or choose another server.port")
    except WorkerError as error:
        return warn("port", f"a node has it: {error}", "set MLX_WORKER_API_KEY to the node's key")
    return ok("port", f"a node answers at {url}: {body['status']}")
