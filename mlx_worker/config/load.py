"""Read the configuration file: TOML in, frozen typed values out.

Every error names the key, the value, the limit and the line, because its reader has the file open
in an editor. Nothing here touches a model: `mlx-worker check` and the child that loads a model
find out whether its folder exists. [both]
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import platformdirs

from mlx_worker.config.checks import contradictions, unknown_keys
from mlx_worker.config.error_location import ConfigErrors
from mlx_worker.config.locate import expand_user, expand_variables
from mlx_worker.config.schema import APP, FILE_NAME, Config, ConfigFile, CpuConfig, ModelConfig
from mlx_worker.config.sizes import MemoryLimit, Size
from mlx_worker.errors import ConfigError
from mlx_worker.system.text_files import decode_text

if TYPE_CHECKING:
    from collections.abc import Iterator

S = TypeVar("S", bound=msgspec.Struct)


def default_file() -> Path:
    """Return `./mlx-worker.toml` if it exists, else the file in the user's configuration folder.

    Raises ConfigError if neither exists.
    """
    if (file := find_default_file()) is not None:
        return file
    raise ConfigError(
        f"{no_default_file()}: `mlx-worker init` writes one; or name another with --config"
    )


def no_default_file() -> str:
    """Return the sentence that neither default file exists."""
    here, of_user = _default_places()
    return f"there is neither ./{here} nor {of_user}"


def find_default_file() -> Path | None:
    """Return the same file; None if neither exists."""
    return next((file for file in _default_places() if file.exists()), None)


def _default_places() -> tuple[Path, Path]:
    return Path(FILE_NAME), platformdirs.user_config_path(APP) / FILE_NAME


def load_config(file: Path) -> Config:
    """Read and check a file. Raises ConfigError with one line that says what to change."""
    config = parse_config(read_config(file), source=str(file), folder=file.resolve().parent)
    return msgspec.structs.replace(config, file=file.resolve())


def read_config(file: Path) -> str:
    """Return the text of a file. Raises ConfigError."""
    try:
        return decode_text(file.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error


def parse_config(text: str, *, source: str, folder: Path) -> Config:
    """Read and check a configuration from text; `source` names it in errors.

    Raises ConfigError about the first problem; `problems.find_problems` finds all of them.
    """
    raw = parse_toml(text, source)
    errors = ConfigErrors(source, text, raw)
    _raise_first(unknown_keys(raw, errors))
    try:
        parsed = msgspec.convert(raw, ConfigFile, strict=True, dec_hook=convert_value)
    except msgspec.ValidationError as error:
        raise errors.from_validation(error, ConfigFile) from error
    config = Config(
        models=tuple(
            model_with_absolute_paths(model, Anchor(folder, f"models[{i}]", errors))
            for i, model in enumerate(parsed.models)
        ),
        server=with_absolute_paths(parsed.server, Anchor(folder, "server", errors)),
        supervisor=parsed.supervisor,
        log=with_absolute_paths(parsed.log, Anchor(folder, "log", errors)),
        cache=with_absolute_paths(parsed.cache, Anchor(folder, "cache", errors)),
        cpu=cpu_with_absolute_path(parsed.cpu, Anchor(folder, "cpu", errors)),
        telemetry=parsed.telemetry,
        folder=folder,
    )
    _raise_first(contradictions(config, errors))
    return config


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Return the tables of the file as they are written. Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from error


def _raise_first(errors: Iterator[Exception]) -> None:
    for error in errors:
        raise error


def convert_value(kind: type[Any], value: Any) -> Any:
    """Return the value as a type that TOML does not have."""
    if kind in (Size, MemoryLimit):
        return kind.read(value)
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError("Expected a path")


@dataclass(frozen=True, slots=True)
class Anchor:
    """The folder and the section of a path, and the errors about it."""

    folder: Path
    section: str
    errors: ConfigErrors

    def text(self, key: str, text: str) -> str:
        """Return the text with its variables replaced."""
        try:
            return expand_variables(text)
        except ValueError as error:
            raise self.errors(f"{self.section}.{key}", str(error)) from error

    def path(self, key: str, path: Path) -> Path:
        """Return the path as an absolute path."""
        return self.folder / expand_user(Path(self.text(key, str(path))))


def with_absolute_paths(section: S, anchor: Anchor) -> S:
    """Return the section with every path in it absolute."""
    paths = {
        key: anchor.path(key, value)
        for key in section.__struct_fields__
        if isinstance(value := getattr(section, key), Path)
    }
    return msgspec.structs.replace(section, **paths)


def cpu_with_absolute_path(cpu: CpuConfig, anchor: Anchor) -> CpuConfig:
    """Return the section with the path of the library absolute; a word stays as it is."""
    if "/" not in cpu.blas:
        return cpu
    return msgspec.structs.replace(cpu, blas=str(anchor.path("blas", Path(cpu.blas))))


def model_with_absolute_paths(model: ModelConfig, anchor: Anchor) -> ModelConfig:
    """Return the model's section with the variables in its paths replaced."""
    return msgspec.structs.replace(
        with_absolute_paths(model, anchor),
        path=anchor.text("path", model.path),
        draft=anchor.text("draft", model.draft) if model.draft else None,
        warm=tuple(anchor.path(f"warm[{k}]", path) for k, path in enumerate(model.warm)),
    )
