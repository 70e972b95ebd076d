"""The configuration of a whole node: all sections together.

[both]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from mlx_worker.config.schema.cache import CacheConfig
from mlx_worker.config.schema.cpu import CpuConfig
from mlx_worker.config.schema.hosts import HostConfig
from mlx_worker.config.schema.log import LogConfig
from mlx_worker.config.schema.model import ModelConfig
from mlx_worker.config.schema.server import ServerConfig
from mlx_worker.config.schema.supervisor import SupervisorConfig
from mlx_worker.config.schema.telemetry import TelemetryConfig

APP = "mlx-worker"
FILE_NAME = "mlx-worker.toml"

KEYS_VARIABLE = "MLX_WORKER_API_KEYS"
"""Environment variable with API keys, beside those of `api_keys_file`."""

KEY_VARIABLE = "MLX_WORKER_API_KEY"
"""Environment variable with the key that a command sends to its node."""


class ConfigFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tables at the top of the file."""

    models: Annotated[tuple[ModelConfig, ...], Meta(min_length=1)]
    server: ServerConfig = ServerConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
    log: LogConfig = LogConfig()
    cache: CacheConfig = CacheConfig()
    cpu: CpuConfig = CpuConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    hosts: tuple[HostConfig, ...] = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configuration of a node, with absolute paths.

    Relative paths start at `folder`. `file` is the file that the configuration was read from;
    None if it was made from text.
    """

    models: Annotated[tuple[ModelConfig, ...], Meta(min_length=1)]
    server: ServerConfig = ServerConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
    log: LogConfig = LogConfig()
    cache: CacheConfig = CacheConfig()
    cpu: CpuConfig = CpuConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    hosts: tuple[HostConfig, ...] = ()
    folder: Path = Path()
    file: Path | None = None
