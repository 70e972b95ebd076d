"""Find every problem of a configuration at once, for `mlx-worker check`.

`load` stops at the first problem, as a node does. Here each table is read by itself, and a value
that is wrong is left out, so that one problem hides no other. What follows only from a wrong value
is not reported. [front]
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from mlx_worker.config.checks import contradictions, key_meant, known_tables, unknown_keys
from mlx_worker.config.error_location import ConfigErrors
from mlx_worker.config.load import (
    Anchor,
    convert_value,
    cpu_with_absolute_path,
    model_with_absolute_paths,
    parse_toml,
    read_config,
    with_absolute_paths,
)
from mlx_worker.config.schema import (
    CacheConfig,
    Config,
    ConfigFile,
    CpuConfig,
    HostConfig,
    LogConfig,
    ModelConfig,
    ServerConfig,
    SupervisorConfig,
    TelemetryConfig,
)
from mlx_worker.errors import ConfigError
from mlx_worker.validation import IS_REQUIRED, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

S = TypeVar("S", bound=msgspec.Struct)

_WELL_FORMED: Final = {
    "models": {"id": "model", "path": "model"},
    "hosts": {"name": "host", "address": "127.0.0.1"},
}
"""A table of each list without a problem."""

_SEGMENT: Final = re.compile(r"([^.\[\]]+)|\[(\d+|\.\.\.)\]")


@dataclass
class FileProblems:
    """The problems of a file, and the configuration as far as it can be read.

    `broken` has the paths of tables whose values are not all as written: their parts of `config`
    say nothing. `config` is None for a file that is not TOML.
    """

    config: Config | None = None
    problems: list[ConfigError] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def is_broken(self, path: str) -> bool:
        """Return True if a key belongs to a broken table."""
        return any(path == table or path.startswith(f"{table}.") for table in self.broken)


def find_problems(file: Path) -> FileProblems:
    """Read a file and return all of its problems, in the order of their lines."""
    try:
        text = read_config(file)
        raw = parse_toml(text, str(file))
    except ConfigError as error:
        return FileProblems(problems=[error])
    errors = ConfigErrors(str(file), text, raw)
    report = _ProblemReader(errors, raw, file.resolve().parent).read()
    if report.config is not None:
        report.config = msgspec.structs.replace(report.config, file=file.resolve())
    report.problems.sort(key=lambda problem: errors.line_of(problem.param or "") or 0)
    return report


class _ProblemReader:
    """Reads the tables of one file one by one."""

    def __init__(self, errors: ConfigErrors, raw: dict[str, Any], folder: Path) -> None:
        self._errors = errors
        self._folder = folder
        self._report = FileProblems()
        self._add(*unknown_keys(raw, errors))
        self._raw = _with_keys_meant(raw)

    def read(self) -> FileProblems:
        """Return the report."""
        self._check_lists()
        models = self._raw.get("models")
        config = Config(
            models=tuple(
                self._model(i, table)
                for i, table in enumerate(models if isinstance(models, list) else [])
            ),
            server=self._anchored("server", self._section("server", ServerConfig)),
            supervisor=self._section("supervisor", SupervisorConfig),
            log=self._anchored("log", self._section("log", LogConfig)),
            cache=self._anchored("cache", self._section("cache", CacheConfig)),
            cpu=self._with_paths("cpu", self._section("cpu", CpuConfig), cpu_with_absolute_path),
            telemetry=self._section("telemetry", TelemetryConfig),
            hosts=tuple(self._hosts()),
            folder=self._folder,
        )
        found = list(contradictions(config, self._errors))
        self._add(*(error for error in found if not self._is_consequence(error)))
        self._report.config = config
        return self._report

    def _add(self, *errors: Exception) -> None:
        self._report.problems += [error for error in errors if isinstance(error, ConfigError)]

    def _is_consequence(self, error: Exception) -> bool:
        param = (isinstance(error, ConfigError) and error.param) or ""
        if param.endswith(".hosts") and any(table.startswith("hosts[") for table in self._broken):
            return True  # the name of a broken host may be what is broken
        return self._report.is_broken(param)

    @property
    def _broken(self) -> set[str]:
        return self._report.broken

    def _check_lists(self) -> None:
        """Report a list of tables that is missing, empty or something else."""
        present = {
            name: [table] * len(found) if isinstance(found, list) else found
            for name, table in _WELL_FORMED.items()
            if (found := self._raw.get(name)) is not None
        }
        try:
            msgspec.convert(present, ConfigFile, dec_hook=convert_value)
        except msgspec.ValidationError as error:
            self._add(self._errors.from_validation(error, ConfigFile))

    def _section(self, name: str, shape: type[S]) -> S:
        found = self._converted(self._raw.get(name, {}), shape, name)
        return shape() if found is None else found

    def _model(self, index: int, table: Any) -> ModelConfig:
        path = f"models[{index}]"
        found = self._converted(table, ModelConfig, path)
        if found is None:
            return ModelConfig(id=path, path=path)  # which no name in a file clashes with
        return self._with_paths(path, found, model_with_absolute_paths)

    def _hosts(self) -> Iterator[HostConfig]:
        """Yield the hosts of which enough can be read."""
        hosts = self._raw.get("hosts")
        for i, table in enumerate(hosts if isinstance(hosts, list) else []):
            if (found := self._converted(table, HostConfig, f"hosts[{i}]")) is not None:
                yield found

    def _anchored(self, name: str, section: S) -> S:
        return self._with_paths(name, section, with_absolute_paths)

    def _with_paths(self, path: str, value: S, make_absolute: Callable[[S, Anchor], S]) -> S:
        try:
            return make_absolute(value, Anchor(self._folder, path, self._errors))
        except ConfigError as error:
            self._add(error)
            self._report.broken.add(path)
            return value

    def _converted(self, table: Any, shape: type[S], path: str) -> S | None:
        """Return a table without its wrong values, which are reported; None if too little is left.

        A value that is left out makes the table broken.
        """
        left_out: set[str] = set()
        while True:
            try:
                return msgspec.convert(table, shape, strict=True, dec_hook=convert_value)
            except msgspec.ValidationError as error:
                key, problem = explain(error, table, shape)
            if not (problem == IS_REQUIRED and key in left_out):
                self._add(self._errors(f"{path}.{key}".rstrip("."), problem))
            self._report.broken.add(path)
            if not _leave_out(table, key):
                return None
            left_out.add(key)


def _with_keys_meant(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the tables without unknown keys; a mistyped key stands under the key that it means."""
    cleaned = copy.deepcopy(raw)
    for _, table, shape in list(known_tables(cleaned)):
        for key in [key for key in table if key not in shape.__struct_fields__]:
            value, meant = table.pop(key), key_meant(key, shape)
            if meant is not None and meant not in table:
                table[meant] = value
    return cleaned


def _leave_out(table: Any, path: str) -> bool:
    """Remove the value at a path, or the list around it; return False if there is none."""
    keys = [key for key, _ in _SEGMENT.findall(path.partition("[")[0])]
    inner = table
    for key in keys[:-1]:
        inner = inner.get(key) if isinstance(inner, dict) else None
    if not keys or not isinstance(inner, dict) or keys[-1] not in inner:
        return False
    del inner[keys[-1]]
    return True
