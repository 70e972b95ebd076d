"""Checks of the configuration beyond the types of its values.

They find unknown keys, values that contradict each other, and what a model's section may not
contain. [both]
"""

from __future__ import annotations

import difflib
import importlib.util
import ipaddress
import os
import re
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.config.addresses import is_loopback, read_network
from mlx_worker.config.host_checks import check_hosts
from mlx_worker.config.schema import (
    KEYS_VARIABLE,
    CacheConfig,
    Config,
    ConfigFile,
    CpuConfig,
    Defaults,
    HostConfig,
    LogConfig,
    ModelConfig,
    ServerConfig,
    SupervisorConfig,
    TelemetryConfig,
)
from mlx_worker.config.schema.cpu import AUTO, BUNDLED
from mlx_worker.config.sizes import in_words
from mlx_worker.validation import too_much

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import msgspec

    MakeError = Callable[[str, str], Exception]
    """Returns the error to raise about a key, from (path of the key, problem)."""

EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http"
"""The package of the extra `telemetry` that needs all other packages of the extra."""

ZEROMQ: Final = "zmq"
"""The package of the extra `router`."""

SET_BY_THE_NODE: Final = frozenset(
    {
        *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_VERBOSITY"),
        *("TOKENIZERS_PARALLELISM", "TMPDIR"),
    }
)
"""Variables that every child gets from the node: a model's `env` cannot set them."""

RESERVED_ARGUMENTS: Final = frozenset(
    {
        *("add_generation_prompt", "chat_template", "continue_final_message", "conversation"),
        *("documents", "kwargs", "max_length", "padding", "return_assistant_tokens_mask"),
        *("return_dict", "return_tensors", "sanitize_control_tokens", "self", "tokenize"),
        *("tokenizer_kwargs", "tools", "truncation"),
    }
)
"""Arguments that steer the tokenizer itself: `chat_template_kwargs` is for the template only."""

CUTS_PATHS: Final = ": \t\n\0"
"""Characters that end a path in LD_PRELOAD."""

LEAST_FREE: Final = 10**6
LEAST_CAPACITY: Final = 10**6
"""Bytes of `[cache]` under which KV on disk does not work."""

LAST_PORT: Final = 65_535

_DEEPEST: Final = 64
_MOST_VALUES: Final = 10_000
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST: Final = 1 << 63
_SCALARS: Final = (str, bool, int, float)


def unknown_keys(raw: dict[str, Any], make_error: MakeError) -> Iterator[Exception]:
    """Yield the error about every key that no table of the file has."""
    for path, table, shape in known_tables(raw):
        yield from _unknown_in(path, table, shape, make_error)


def known_tables(
    raw: dict[str, Any],
) -> Iterator[tuple[str, dict[str, Any], type[msgspec.Struct]]]:
    """Yield (path, table, type) of every table in the file that has a type."""
    tables: list[tuple[str, Any, type[msgspec.Struct]]] = [("", raw, ConfigFile)]
    tables.append(("server", raw.get("server"), ServerConfig))
    tables.append(("supervisor", raw.get("supervisor"), SupervisorConfig))
    tables.append(("log", raw.get("log"), LogConfig))
    tables.append(("cache", raw.get("cache"), CacheConfig))
    tables.append(("cpu", raw.get("cpu"), CpuConfig))
    tables.append(("telemetry", raw.get("telemetry"), TelemetryConfig))
    models = raw.get("models")
    if isinstance(models, list):
        for i, model in enumerate(models):
            tables.append((f"models[{i}]", model, ModelConfig))
            if isinstance(model, dict):
                tables.append((f"models[{i}].defaults", model.get("defaults"), Defaults))
    hosts = raw.get("hosts")
    if isinstance(hosts, list):
        tables += [(f"hosts[{i}]", host, HostConfig) for i, host in enumerate(hosts)]
    for path, table, shape in tables:
        if isinstance(table, dict):
            yield path, table, shape


def key_meant(key: str, shape: type[msgspec.Struct]) -> str | None:
    """Return the key of a table that an unknown key is nearly; None if there is none."""
    near = difflib.get_close_matches(key, shape.__struct_fields__, n=1)
    return near[0] if near else None


def _unknown_in(
    path: str, table: dict[str, Any], shape: type[msgspec.Struct], make_error: MakeError
) -> Iterator[Exception]:
    known = shape.__struct_fields__
    for key in table:
        if key not in known:
            near = key_meant(key, shape)
            hint = f"did you mean {near!r}?" if near else f"known keys: {', '.join(known)}"
            yield make_error(f"{path}.{key}".lstrip("."), f"unknown key; {hint}")


def contradictions(config: Config, make_error: MakeError) -> Iterator[Exception]:
    """Yield the error about every value that contradicts another one or the machine."""
    yield from _check_names(config, make_error)
    yield from _check_host(config.server, make_error)
    yield from _check_access(config.server, make_error)
    yield from _check_telemetry(config.telemetry, make_error)
    yield from _check_tables(config, make_error)
    yield from _check_pins(config, make_error)
    yield from _check_blas(config.cpu, make_error)
    yield from _check_cache(config, make_error)
    yield from _check_kv_events(config, make_error)
    yield from check_hosts(config, make_error)


def _check_names(config: Config, make_error: MakeError) -> Iterator[Exception]:
    taken: dict[str, str] = {}
    for path, name in _names(config):
        if name in taken:
            yield make_error(path, f"{name!r} is already the name at {taken[name]}")
        taken.setdefault(name, path)
    defaults = [i for i, model in enumerate(config.models) if model.default]
    if len(defaults) > 1:
        yield make_error(
            f"models[{defaults[1]}].default",
            f"at most one model may be the default; models[{defaults[0]}] is one already",
        )


def _names(config: Config) -> Iterator[tuple[str, str]]:
    for i, model in enumerate(config.models):
        yield f"models[{i}].id", model.id
        for k, alias in enumerate(model.aliases):
            yield f"models[{i}].aliases[{k}]", alias


def _check_host(server: ServerConfig, make_error: MakeError) -> Iterator[Exception]:
    if server.host == "localhost":
        return
    try:
        ipaddress.ip_address(server.host)
    except ValueError:
        yield make_error(
            "server.host", f"{server.host!r} is neither 'localhost' nor an IP address to listen on"
        )


def _check_access(server: ServerConfig, make_error: MakeError) -> Iterator[Exception]:
    keyed = server.api_keys_file is not None or KEYS_VARIABLE in os.environ
    yield from _check_trusted(server, make_error, keyed=keyed)
    if not (keyed or server.trusted or server.insecure or is_loopback(server.host)):
        yield make_error(
            "server.host",
            f"{server.host!r} can be reached from other machines, and there are no API keys: set"
            f" server.api_keys_file, {KEYS_VARIABLE} or server.trusted, or server.insecure = true",
        )
    if (server.tls_cert is None) != (server.tls_key is None):
        given, missing = ("tls_cert", "tls_key") if server.tls_cert else ("tls_key", "tls_cert")
        yield make_error(f"server.{given}", f"needs server.{missing} beside it")
    if "*" in server.cors_origins and len(server.cors_origins) > 1:
        yield make_error(
            "server.cors_origins", "'*' is every origin: the other entries have no effect"
        )


def _check_trusted(
    server: ServerConfig, make_error: MakeError, *, keyed: bool
) -> Iterator[Exception]:
    for k, text in enumerate(server.trusted):
        try:
            read_network(text)
        except ValueError as error:
            yield make_error(f"server.trusted[{k}]", str(error))
    if server.trusted and server.insecure and not keyed:
        yield make_error(
            "server.trusted",
            "has no effect: without keys, server.insecure lets every address send requests",
        )


def _check_telemetry(telemetry: TelemetryConfig, make_error: MakeError) -> Iterator[Exception]:
    if telemetry.endpoint is None:
        return
    if "@" in telemetry.endpoint:  # the endpoint is logged
        yield make_error("telemetry.endpoint", "credentials belong in $OTEL_EXPORTER_OTLP_HEADERS")
    if not _is_installed(EXPORTER):
        yield make_error(
            "telemetry.endpoint", "needs an extra: pip install 'mlx-worker[telemetry]'"
        )


def _is_installed(package: str) -> bool:
    """Return True if the package can be imported; nothing of the package is imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # a package around it is missing
        return False


def _check_tables(config: Config, make_error: MakeError) -> Iterator[Exception]:
    for i, model in enumerate(config.models):
        yield from _check_environment(model.env, f"models[{i}].env", make_error)
        arguments = f"models[{i}].chat_template_kwargs"
        yield from _check_template_arguments(model.chat_template_kwargs, arguments, make_error)


def _check_pins(config: Config, make_error: MakeError) -> Iterator[Exception]:
    for i, model in enumerate(config.models):
        if model.pin and model.idle_timeout is not None:
            yield make_error(f"models[{i}].idle_timeout", "a pinned model is never unloaded")


def _check_blas(cpu: CpuConfig, make_error: MakeError) -> Iterator[Exception]:
    """Yield the error about a library that no process could preload."""
    if cpu.blas in (AUTO, BUNDLED):
        return
    if "/" not in cpu.blas:
        yield make_error("cpu.blas", f"{cpu.blas!r} is neither 'auto', 'bundled' nor a path")
    elif cut := sorted(set(cpu.blas) & set(CUTS_PATHS)):
        yield make_error("cpu.blas", f"no library can be preloaded with {cut[0]!r} in its path")


def _check_cache(config: Config, make_error: MakeError) -> Iterator[Exception]:
    cache, models_dir = config.cache, config.server.models_dir
    if cache.disk_free_min < LEAST_FREE:
        yield make_error(
            "cache.disk_free_min",
            f"{cache.disk_free_min} is under {LEAST_FREE} bytes ({in_words(LEAST_FREE)}): on a full"
            " volume the KV on disk would go off and on again and again",
        )
    if cache.disk_cache_bytes is not None and cache.disk_cache_bytes < LEAST_CAPACITY:
        yield make_error(
            "cache.disk_cache_bytes",
            f"{cache.disk_cache_bytes} is under {LEAST_CAPACITY} bytes"
            f" ({in_words(LEAST_CAPACITY)}): that holds 256 tokens of hardly any model;"
            " cache.disk = false turns KV on disk off",
        )
    if cache.path is not None and cache.path == models_dir:
        yield make_error(
            "cache.path", f"{cache.path} is server.models_dir too: name another folder"
        )


def _check_kv_events(config: Config, make_error: MakeError) -> Iterator[Exception]:
    taken: dict[str, str] = {}
    for i, model in enumerate(config.models):
        addresses = {"kv_events": model.kv_events, "kv_events_replay": model.kv_events_replay}
        for key, address in addresses.items():
            at = f"models[{i}].{key}"
            if address is None:
                continue
            if (problem := _problem_of_endpoint(address)) is not None:
                yield make_error(at, problem)
            elif address in taken:
                yield make_error(at, f"{address} is already the address at {taken[address]}")
            taken.setdefault(address, at)
        if model.kv_events is None and (model.kv_events_replay or model.kv_events_topic):
            key = "kv_events_replay" if model.kv_events_replay else "kv_events_topic"
            yield make_error(f"models[{i}].{key}", f"needs models[{i}].kv_events beside it")
        if model.kv_events is not None and not _is_installed(ZEROMQ):
            yield make_error(
                f"models[{i}].kv_events", "needs an extra: pip install 'mlx-worker[router]'"
            )


def _problem_of_endpoint(address: str) -> str | None:
    """Return why no socket could be bound to an address of the right form; None if one could."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return f"{host!r} is no IP address to listen on"
    return None if 0 < int(port) <= LAST_PORT else f"{port} is no port"


def _check_environment(
    env: Mapping[str, str], at: str, make_error: MakeError
) -> Iterator[Exception]:
    """Yield the error about a variable that no process could be started with."""
    for name, value in env.items():
        if not _NAME.fullmatch(name):
            yield make_error(f"{at}.{name}", f"{name!r} is no name of a variable")
        if name in SET_BY_THE_NODE:
            yield make_error(f"{at}.{name}", "the node sets this variable for its children")
        if "\0" in value:
            yield make_error(f"{at}.{name}", "the value contains a NUL character")


def _check_template_arguments(
    given: Mapping[str, Any], at: str, make_error: MakeError
) -> Iterator[Exception]:
    """Yield the error about an argument that could not be handed to a chat template."""
    for name, value in given.items():
        if (problem := _problem_of_argument(name, value)) is not None:
            yield make_error(f"{at}.{name}", problem)


def _problem_of_argument(name: str, value: Any) -> str | None:
    """Return the first problem of an argument; None if there is none."""
    if name in RESERVED_ARGUMENTS:
        return "is an argument of the tokenizer, not of the template"
    if (problem := too_much(value, _DEEPEST, _MOST_VALUES)) is not None:
        return f"is {problem}"
    for scalar in _scalars_in(value):
        if not isinstance(scalar, _SCALARS):
            return f"{scalar} is no text, number, true or false"
        if isinstance(scalar, int) and not -_LARGEST <= scalar < _LARGEST:
            return f"{scalar} has more than 64 bits"
    return None


def _scalars_in(value: Any) -> Iterator[Any]:
    match value:
        case dict():
            for inner in value.values():
                yield from _scalars_in(inner)
        case list():
            for inner in value:
                yield from _scalars_in(inner)
        case _:
            yield value
