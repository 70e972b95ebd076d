"""The configuration's keys as data: what documents and editors say of them is made of the types.

Types, limits and defaults come from `config`; only what a key means is written here, once. A key
without words is an error, so that none is ever added in silence. [front]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import inspect

from mlx_worker.config.schema import (
    Defaults,
    LogConfig,
    ModelConfig,
    ServerConfig,
    SupervisorConfig,
    TelemetryConfig,
)
from mlx_worker.config.sizes import Limit, Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECTIONS: Final[Mapping[str, tuple[type[msgspec.Struct], str]]] = {
    "server": (ServerConfig, "Where the front listens, and what it accepts."),
    "supervisor": (SupervisorConfig, "When a child is given up as hung, when it is started again."),
    "log": (LogConfig, "What the node says of itself, and where."),
    "telemetry": (TelemetryConfig, "OpenTelemetry traces; the extra `telemetry` sends them."),
    "models": (ModelConfig, "One model; the section stands once for each, as `[[models]]`."),
    "models.defaults": (Defaults, "What a request means where it says nothing."),
}
"""Each section's type and what it is about, in the order of a file."""

WORDS: Final[Mapping[str, str]] = {
    "server.host": "Address to listen on: `localhost` (127.0.0.1 and ::1, those that the machine "
    "has) or an IP address. `0.0.0.0` is every IPv4 address, `::` every address, IPv4 included "
    "where the system can.",
    "server.port": "Port to listen on; 0 takes a free one.",
    "server.models_dir": "Where models are kept. Without it: `$MLX_WORKER_MODELS`, else the user's "
    "data folder.",
    "server.max_body_bytes": "Largest request body in bytes, decompressed; a larger one is refused "
    "with 413. Without it: 16 bytes for each token of the largest context among the models, at "
    "least 4 MiB, at most 32 MiB; a model without a stated context counts as 16 MiB.",
    "server.host_names": "Names by which browsers may call a node without keys, beside `localhost` "
    "and the machine's own.",
    "server.api_keys_file": "Lines `name:key`, `#` comments; readable by its owner alone. Keys may "
    "stand in `$MLX_WORKER_API_KEYS` too. Without any, everybody who reaches the port may ask.",
    "server.insecure": "Allows a host that others can reach without any key.",
    "server.trusted": 'Addresses and networks, such as `"10.0.0.0/24"`, that need no key for '
    "models, health, cache, warming and generation. With this list and no key, no other address "
    "may ask, and what needs a key (`/admin`, `/metrics`) is refused.",
    "server.tls_cert": "Certificate chain, PEM; together with `tls_key`.",
    "server.tls_key": "Its private key, PEM, without a password.",
    "server.cors_origins": 'Origins of pages that may ask from a browser, or `["*"]`.',
    "server.reasoning_summaries": "Who gets reasoning as a summary in the Responses dialect: a "
    "request that asks for one, or `always`: a request that does not ask gets the summary beside "
    "the reasoning's own text, for clients that read only summaries.",
    "server.max_connections": "Connections at work at a time; over it idle ones are closed, then "
    "new ones get 503 but for health. Lowered to what the limit of open files leaves room for.",
    "server.idle_timeout": "Seconds in which a connection has to send a whole head, counted from "
    "its begin or its last answer; else it is closed.",
    "server.body_timeout": "Seconds that a body may pause in all, at 16 KiB a second; else 408.",
    "server.send_timeout": "Seconds after which a client that takes nothing of its answer loses "
    "it.",
    "supervisor.stall_timeout": "A child with work and no progress for so many seconds is killed.",
    "supervisor.load_stall_timeout": "So is one on its way up: no hello, or no byte further.",
    "supervisor.resume_timeout": "What a dead child was doing waits so many seconds for the next.",
    "supervisor.max_crashes": "A request that was there at so many ends is refused, not run again.",
    "supervisor.max_restarts": "More ends than these within `restart_window`, and the model is "
    "given up.",
    "supervisor.restart_window": "Seconds that `max_restarts` counts in.",
    "supervisor.backoff_initial": "Longest pause in seconds before the first restart; it doubles.",
    "supervisor.backoff_max": "The longest it doubles to, in seconds.",
    "supervisor.retry_initial": "Longest pause in seconds before a given-up model is tried again; "
    "it doubles. A changed folder is tried at once.",
    "supervisor.retry_max": "The longest it doubles to, in seconds.",
    "supervisor.exit_when_failed_for": "Where no model can be served for so many seconds, the node "
    "ends with exit code 70, and a service manager may start it anew. Without it: never.",
    "supervisor.load_wait": "New requests wait so many seconds for a model on its way; 0: 503 at "
    "once.",
    "supervisor.drain_timeout": "Seconds that what runs may take to finish once it is to.",
    "supervisor.standby": "Spare processes: a model that starts has only its weights to read.",
    "supervisor.memory_limit": "For the processes of all models together: a share of the machine, "
    'or bytes as in "96GB". Without it: 0.8 of the machine, on macOS 0.75.',
    "log.format": "`auto` is text to a terminal, JSON lines to anything else.",
    "log.level": "The least that is said; SIGUSR1 and SIGUSR2 change it while the node runs.",
    "log.file": "Where to, instead of stderr.",
    "log.max_bytes": "At this size the file begins anew, beside the old one.",
    "log.keep": "So many old ones are kept.",
    "telemetry.endpoint": "Base URL of a collector (OTLP over HTTP). Without it: no traces. All "
    "else is said by OpenTelemetry's own variables, as `$OTEL_EXPORTER_OTLP_HEADERS`.",
    "models.id": "The name in requests and in `/health`.",
    "models.path": "A folder (relative to the file), or a name in the models folder.",
    "models.aliases": "Other names for it.",
    "models.default": "Answers for names nobody knows; at most one model does.",
    "models.preload": "Started with the node; else by its first request.",
    "models.pin": "Never unloaded, neither when idle nor for another model.",
    "models.idle_timeout": "Seconds unused after which it is unloaded. Without it: never.",
    "models.request_timeout": "Seconds that a request may take, waiting included. Without it: as "
    "long as it takes.",
    "models.max_concurrency": "Decode rows: requests that run at once.",
    "models.max_queue": "Requests that may wait for a row.",
    "models.context_length": "Tokens of prompt and answer. Without it: the model's own; no limit "
    "but memory where its files state none. A larger one than config.json's does not count.",
    "models.cache_bytes": 'KV of cached prompts and running rows together: bytes, or as in "4GiB".',
    "models.prefill_pause": "Seconds that a new prompt may hold running streams up, between two "
    "tokens.",
    "models.defaults": "See below.",
    "models.warm": "Files (relative to this one) that are prefilled after every load.",
    "models.chat_template": "File of a Jinja template that replaces the folder's own. A reload "
    "reads it again, and starts the model anew where it has changed.",
    "models.chat_template_kwargs": "Arguments of the chat template, such as `enable_thinking = "
    "false`, for requests that name none of that name themselves.",
    "models.system_prompt": "System prompt of a conversation that has no system turn.",
    "models.stop": "Stop strings, beside those of a request.",
    "models.tools": "Tools that are offered to a model whose chat template has no tool calls: "
    "`refuse` with 400, `ignore` with a warning in the answer, or `prompt`: described in the "
    "system prompt, and calls are read from the answer (docs/dialects.md).",
    "models.env": "Variables in the environment of this model's process, before those of the "
    "node's own environment. No spare process is used for such a model. What the node sets for "
    "all its children (`TMPDIR`, `HF_HUB_OFFLINE`, …) cannot be set here.",
    "models.defaults.temperature": "0 is greedy.",
    "models.defaults.top_p": "Draw from the likeliest tokens of this probability together; 0: all.",
    "models.defaults.top_k": "Draw from this many of the likeliest tokens; 0 or -1: from all.",
    "models.defaults.min_p": "Draw from tokens at least this likely, next to the likeliest.",
    "models.defaults.repetition_penalty": "Above 1, tokens that were said before are less likely.",
    "models.defaults.presence_penalty": "Above 0, tokens that were said are less likely.",
    "models.defaults.frequency_penalty": "Above 0, the more so the more often they were said.",
    "models.defaults.seed": "Seed of requests that give none: equal requests get equal answers.",
    "models.defaults.max_tokens": "Tokens of an answer, at most as many as the context leaves.",
}
"""What each key means."""


@dataclass(frozen=True)
class Key:
    """One key: its name, what may stand there, what stands there if nothing does, what it means.

    `schema` is JSON Schema's word for the type; `default` is None where there is none.
    """

    name: str
    schema: Mapping[str, Any]
    required: bool
    default: Any
    words: str


def keys(section: str) -> Iterator[Key]:
    """The keys of a section, in the order of its type. Raises KeyError for one without words."""
    info = inspect.type_info(SECTIONS[section][0])
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        default = None if field.default is msgspec.NODEFAULT else field.default
        yield Key(
            field.name,
            _schema(field.type),
            field.required,
            msgspec.to_builtins(default, enc_hook=_plain),
            WORDS[f"{section}.{field.name}"],
        )


def json_schema() -> dict[str, Any]:
    """A JSON schema of the file, for editors."""
    tables = {section: _table(section) for section in SECTIONS}
    tables["models"]["properties"]["defaults"] = tables.pop("models.defaults")
    models = {"type": "array", "minItems": 1, "items": tables.pop("models")}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mlx-worker.toml",
        "type": "object",
        "properties": {**tables, "models": models},
        "required": ["models"],
        "additionalProperties": False,
    }


def _table(section: str) -> dict[str, Any]:
    listed = list(keys(section))
    return {
        "type": "object",
        "description": SECTIONS[section][1],
        "properties": {
            it.name: {
                **it.schema,
                "description": it.words.replace("`", ""),
                **({} if it.default is None else {"default": it.default}),
            }
            for it in listed
        },
        "required": [it.name for it in listed if it.required],
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
        case inspect.UnionType():  # TOML has no null: a key is there or not
            (only,) = [it for it in kind.types if not isinstance(it, inspect.NoneType)]
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
            limits = {ours: getattr(kind, it, None) for it, ours in _LIMITS.items()}
            found = {key: value for key, value in limits.items() if value is not None}
            return {"type": _PLAIN_TYPES[type(kind)], **found}


_CUSTOM: Final[Mapping[type, dict[str, Any]]] = {
    Path: {"type": "string", "minLength": 1},
    Size: {"type": ["integer", "string"], "minimum": 0},
    Limit: {"type": ["number", "string"], "exclusiveMinimum": 0},
}


def _plain(value: Any) -> Any:
    """The file's own words for a default."""
    if isinstance(value, Size):
        return int(value)
    raise NotImplementedError(type(value).__name__)


# --- a page -------------------------------------------------------------------------------

HEAD = """\
# Configuration

Written by `python -m tests.tools.generated` out of the types that read it. A file is TOML in UTF-8,
as are the prompts, templates and keys that it names; a byte order mark in front is no part of them.
`mlx-worker check FILE` says what would run, or what is wrong, with key, value, limit and line.
`config/mlx-worker.schema.json` tells editors the same: with `#:schema PATH` in its first line, a
file is completed and checked while it is written. Paths are relative to the file; in each of them
`~` is a home folder, `$NAME` or `${NAME}` a variable of the environment (one that is not set is an
error), and `$$` a dollar sign.
"""


def page() -> str:
    """All keys as Markdown tables."""
    return HEAD + "".join(_section(section) for section in SECTIONS)


def _section(section: str) -> str:
    title = f"[[{section}]]" if section == "models" else f"[{section}]"
    rows = "".join(
        f"| `{it.name}` | {in_words(it.schema)} | {_default(it)} | {it.words} |\n"
        for it in keys(section)
        if it.schema != {"type": "object"}
    )
    return f"""
## `{title}`

{SECTIONS[section][1]}

| key | takes | default | |
|---|---|---|---|
{rows}"""


def in_words(schema: Mapping[str, Any]) -> str:
    """What may stand there, for a reader."""
    if "enum" in schema:
        return ", ".join(f"`{it}`" for it in schema["enum"])
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
