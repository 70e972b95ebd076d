"""The types of the configuration file, and what each of its keys means.

A key's type, limits, default and meaning are written here once. The node reads the file with these
types; `config.reference` makes the documentation and the JSON schema for editors out of them.
[both]
"""

from mlx_worker.config.schema.cache import CacheConfig
from mlx_worker.config.schema.cpu import CpuConfig
from mlx_worker.config.schema.hosts import HERE, HostConfig
from mlx_worker.config.schema.log import LogConfig, LogLevel
from mlx_worker.config.schema.model import Defaults, ModelConfig
from mlx_worker.config.schema.node import (
    APP,
    FILE_NAME,
    KEY_VARIABLE,
    KEYS_VARIABLE,
    Config,
    ConfigFile,
)
from mlx_worker.config.schema.server import ServerConfig
from mlx_worker.config.schema.supervisor import SupervisorConfig
from mlx_worker.config.schema.telemetry import TelemetryConfig

__all__ = [
    "APP",
    "FILE_NAME",
    "HERE",
    "KEYS_VARIABLE",
    "KEY_VARIABLE",
    "CacheConfig",
    "Config",
    "ConfigFile",
    "CpuConfig",
    "Defaults",
    "HostConfig",
    "LogConfig",
    "LogLevel",
    "ModelConfig",
    "ServerConfig",
    "SupervisorConfig",
    "TelemetryConfig",
]
