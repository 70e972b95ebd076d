"""Write the reference of the configuration and its JSON schema from the types that read a file.

Types, limits, defaults and descriptions come from `config.schema`. A key without a description is
an error, so that every key is documented. [front]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import inspect

from mlx_worker.config.schema import (
    CacheConfig,
    CpuConfig,
    Defaults,
    HostConfig,
    LogConfig,
    ModelConfig,
    ServerConfig,
    SupervisorConfig,
    TelemetryConfig,
)
from mlx_worker.config.sizes import MemoryLimit, Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECTIONS: Final[Mapping[str, tuple[type[msgspec.Struct], str]]] = {
    "server": (ServerConfig, "Where the node listens, and what it accepts."),
    "supervisor": (SupervisorConfig, "When a model's process is stopped, restarted and given up."),
    "log": (LogConfig, "What the node logs, and where."),
    "cache": (CacheConfig, "The KV of prompts on disk."),
    "cpu": (CpuConfig, "How models compute on a CPU, where there is no GPU."),
    "telemetry": (TelemetryConfig, "OpenTelemetry traces; the extra `telemetry` sends them."),
    "models": (ModelConfig, "One model; the file has a section `[[models]]` for each."),
    "models.defaults": (Defaults, "Values of fields that a request leaves out."),
    "hosts": (HostConfig, "One machine that computes parts of models; a section for each."),
}
"""The type and the description of each section, in the order of a file."""


@dataclass(frozen=True)
class Key:
    """One key, with its type as a JSON schema.

    `default` is None if the key has no default.
    """

    name: str
    schema: Mapping[str, Any]
    required: bool
    default: Any
    description: str


def keys(section: str) -> Iterator[Key]:
    """Yield the keys of a section, in the order of its type.

    Raises KeyError for a key without a description.
    """
    info = inspect.type_info(SECTIONS[section][0])
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        described = field.type
        assert isinstance(described, inspect.Metadata), field.name
        default = None if field.default is msgspec.NODEFAULT else field.default
        yield Key(
            field.name,
            _schema(described.type),
            field.required,
            msgspec.to_builtins(default, enc_hook=_plain),
            (described.extra_json_schema or {})["description"],
        )


def json_schema() -> dict[str, Any]:
    """Return a JSON schema of the file, for editors."""
    tables = {section: _table(section) for section in SECTIONS}
    tables["models"]["properties"]["defaults"] = tables.pop("models.defaults")
    models = {"type": "array", "minItems": 1, "items": tables.pop("models")}
    hosts = {"type": "array", "items": tables.pop("hosts")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mlx-worker.toml",
        "type": "object",
        "properties": {**tables, "models": models, "hosts": hosts},
        "required": ["models"],
        "additionalProperties": False,
    }


def _table(section: str) -> dict[str, Any]:
    listed = list(keys(section))
    return {
        "type": "object",
        "description": SECTIONS[section][1],
        "properties": {
            key.name: {
                **key.schema,
                "description": key.description.replace("`", ""),
                **({} if key.default is None else {"default": key.default}),
            }
            for key in listed
        },
        "required": [key.name for key in listed if key.required],
        "additionalProperties": False,
    }


_PLAIN_TYPES: Final = {
    inspect.StrType: "string",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
}
_LIMITS: Final = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "pattern": "pattern",
}


def _schema(kind: inspect.Type) -> dict[str, Any]:  # noqa: PLR0911  (a case a type)
    match kind:
        case inspect.Metadata():
            return _schema(kind.type)
        case inspect.UnionType():  # TOML has no null: a key is there or not
            (only,) = [member for member in kind.types if not isinstance(member, inspect.NoneType)]
            return _schema(only)
        case inspect.VarTupleType():
            return {"type": "array", "items": _schema(kind.item_type)}
        case inspect.StructType():
            return {"type": "object"}
        case inspect.CustomType():
            return _CUSTOM[kind.cls]
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _schema(kind.value_type)}
        case inspect.AnyType():
            return {}
        case inspect.LiteralType():
            return {"enum": list(kind.values)}
        case _:
            limits = {ours: getattr(kind, name, None) for name, ours in _LIMITS.items()}
            found = {key: value for key, value in limits.items() if value is not None}
            return {"type": _PLAIN_TYPES[type(kind)], **found}


_CUSTOM: Final[Mapping[type, dict[str, Any]]] = {
    Path: {"type": "string", "minLength": 1},
    Size: {"type": ["integer", "string"], "minimum": 0},
    MemoryLimit: {"type": ["number", "string"], "exclusiveMinimum": 0},
}


def _plain(value: Any) -> Any:
    """Return a default as the file writes it."""
    if isinstance(value, Size):
        return int(value)
    raise NotImplementedError(type(value).__name__)


# --- a page -------------------------------------------------------------------------------

HEAD = """\
# Configuration

Written by `python -m tests.tools.generated` from the types that read a file.

- The file is TOML in UTF-8. The prompts, templates and keys that it names are UTF-8 too. A byte
  order mark at the start is ignored.
- Paths are relative to the file. In a path, `~` is a home folder, `$NAME` or `${NAME}` is an
  environment variable, and `$$` is a dollar sign. A variable that is not set is an error.
- `mlx-worker check FILE` says what would run, or what is wrong, with key, value, limit and line.
- Words such as child, spare, drain or KV are in [the glossary](glossary.md).
- `config/mlx-worker.schema.json` is for editors. With `#:schema PATH` in the first line of a file,
  an editor completes and checks the file while you write.
- Without `--config`, commands read `./mlx-worker.toml`, else the file in the user's config folder:
  `~/.config/mlx-worker/` on Linux, `~/Library/Application Support/mlx-worker/` on macOS.
- The models folder in the user's data folder is `~/.local/share/mlx-worker/models` on Linux,
  `~/Library/Application Support/mlx-worker/models` on macOS.
- The KV on disk in the user's cache folder is `~/.cache/mlx-worker/kv` on Linux,
  `~/Library/Caches/mlx-worker/kv` on macOS.

| variable | meaning |
|---|---|
| `MLX_WORKER_API_KEYS` | Keys of the node, `name:key,name:key`, beside `server.api_keys_file`. |
| `MLX_WORKER_API_KEY` | The key that commands and clients send. |
| `MLX_WORKER_KV` | The folder of the KV on disk, if `cache.path` is not set. |
| `MLX_WORKER_MODELS` | The models folder, if `server.models_dir` is not set. |
| `MLX_WORKER_LOG_FILE` | The log file of a launchd service, if `log.file` is not set. |
| `MLX_MODEL_PATH` | The model of programs that import `mlx_worker.inference` and load none. |
"""


def page() -> str:
    """Return all keys as Markdown tables."""
    return HEAD + "".join(_section(section) for section in SECTIONS)


def _section(section: str) -> str:
    title = f"[[{section}]]" if section in ("models", "hosts") else f"[{section}]"
    rows = "".join(
        f"| `{key.name}` | {in_words(key.schema)} | {_default(key)} | {key.description} |\n"
        for key in keys(section)
        if key.schema != {"type": "object"}
    )
    return f"""
## `{title}`

{SECTIONS[section][1]}

| key | takes | default | |
|---|---|---|---|
{rows}"""


def in_words(schema: Mapping[str, Any]) -> str:
    """Return in words which values a key takes."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {in_words(schema['items'])}"
    names = {
        "string": "text",
        "integer": "whole number",
        "boolean": "true, false",
        "object": "table",
    }
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    text = " or ".join(names.get(str(kind), str(kind)) for kind in kinds)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    above = "above " if "exclusiveMinimum" in schema else ""
    if "maximum" in schema:
        between = " to " if not above else ", at most "
        return f"{text}, {above}{low}{between}{schema['maximum']}"
    return text


def _default(key: Key) -> str:
    if key.required:
        return "required"
    if key.default in (None, ()):
        return ""
    return f"`{str(key.default).lower() if isinstance(key.default, bool) else key.default}`"
