"""Report the configuration that the node goes by, without secret values.

Values of `env` may be keys of other services, and a system prompt is text of its author: each is
replaced by a word that says so. API keys are not part of a configuration, which has only the name
of their file; a collector's URL with a password is refused when the configuration is read.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker import logs
from mlx_worker.config.schema import (
    CpuConfig,
    HostConfig,
    LogConfig,
    ModelConfig,
    ServerConfig,
    SupervisorConfig,
    TelemetryConfig,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlx_worker.config.schema import Config

HIDDEN: Final = "(hidden)"

SECTIONS: Final = {
    "server": ServerConfig(),
    "supervisor": SupervisorConfig(),
    "log": LogConfig(),
    "telemetry": TelemetryConfig(),
    "cpu": CpuConfig(),
}
"""The sections that a file has once, with their defaults."""


class ConfigReport(msgspec.Struct, frozen=True, rename={"sources": "from"}):
    """The configuration in effect: all its keys by section, as the file would have them.

    `file` is null if the node was not started from a file. `from` tells, by the path of a key,
    where a value that is not the default comes from: `file`, `program` (no file) or `running` (set
    since the start). `hidden` are the paths of values that are not shown. `key` is the name of the
    API key of this request; null without one.
    """

    file: str | None
    config: dict[str, Any]
    sources: dict[str, str]
    hidden: list[str]
    key: str | None


def config_report(config: Config, key: str | None) -> ConfigReport:
    """Return a configuration for a reader whose API key has this name."""
    tables: dict[str, tuple[Any, Any]] = {
        name: (getattr(config, name), default) for name, default in SECTIONS.items()
    }
    tables |= {
        f"models[{number}]": (model, ModelConfig(id=model.id, path=model.path))
        for number, model in enumerate(config.models)
    }
    tables |= {
        f"hosts[{number}]": (host, HostConfig(name=host.name, address=host.address))
        for number, host in enumerate(config.hosts)
    }
    source = "program" if config.file is None else "file"
    report = _Report(source)
    shown = {name: report.table(name, *pair) for name, pair in tables.items()}
    sections = {name: shown[name] for name in SECTIONS}
    if sections["log"]["level"] != logs.level():
        sections["log"]["level"] = logs.level()
        report.sources["log.level"] = "running"
    models = [shown[f"models[{number}]"] for number in range(len(config.models))]
    hosts = [shown[f"hosts[{number}]"] for number in range(len(config.hosts))]
    return ConfigReport(
        file=None if config.file is None else str(config.file),
        config=sections | {"models": models, "hosts": hosts},
        sources=report.sources,
        hidden=report.hidden,
        key=key,
    )


class _Report:
    """Collects where values come from, and which are hidden, while tables are shown."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.sources: dict[str, str] = {}
        self.hidden: list[str] = []

    def table(self, name: str, values: msgspec.Struct, defaults: msgspec.Struct) -> dict[str, Any]:
        """Return the keys of a section with the values that may be shown."""
        return {
            key: self._value(f"{name}.{key}", key, getattr(values, key), getattr(defaults, key))
            for key in values.__struct_fields__
        }

    def _value(self, path: str, key: str, value: Any, default: Any) -> Any:
        if isinstance(value, msgspec.Struct):
            return self.table(path, value, default)
        if value != default or key in ("id", "path", "name", "address"):
            self.sources[path] = self._source
        shown = msgspec.to_builtins(value, enc_hook=_plain)
        for secret, without in _without_secrets(key, shown):
            self.hidden.append(f"{path}{secret}")
            shown = without
        return shown


def _plain(value: Any) -> Any:
    """Return a path or an amount of memory as text or number."""
    match value:
        case int():
            return int(value)
        case float():
            return float(value)
        case _:
            return str(value)


def _without_secrets(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the path of each secret in a value, and the value without the secrets so far."""
    match key, value:
        case "env", dict():
            shown = dict(value)
            for name in value:
                shown = shown | {name: HIDDEN}
                yield f".{name}", shown
        case "system_prompt", str():
            yield "", HIDDEN
        case _:
            pass
