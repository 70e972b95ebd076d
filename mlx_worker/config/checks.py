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
from mlx_worker.config.schema import (
    KEYS_VARIABLE,
    Config,
    ConfigFile,
    Defaults,
    LogConfig,
    ModelConfig,
    ServerConfig,
    SupervisorConfig,
    TelemetryConfig,
)
from mlx_worker.validation import too_much

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import msgspec

    MakeError = Callable[[str, str], Exception]
    """Returns the error to raise about a key, from (path of the key, problem)."""

EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http"
"""The package of the extra `telemetry` that needs all other packages of the extra."""

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

_DEEPEST: Final = 64
_MOST_VALUES: Final = 10_000
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LARGEST: Final = 1 << 63
_SCALARS: Final = (str, bool, int, float)


def refuse_unknown_keys(raw: dict[str, Any], make_error: MakeError) -> None:
    """Raise the error about the first key that no table of the file has."""
    tables: list[tuple[str, Any, type[msgspec.Struct]]] = [("", raw, ConfigFile)]
    tables.append(("server", raw.get("server"), ServerConfig))
    tables.append(("supervisor", raw.get("supervisor"), SupervisorConfig))
    tables.append(("log", raw.get("log"), LogConfig))
    tables.append(("telemetry", raw.get("telemetry"), TelemetryConfig))
    models = raw.get("models")
    if isinstance(models, list):
        for i, model in enumerate(models):
            tables.append((f"models[{i}]", model, ModelConfig))
            if isinstance(model, dict):
                tables.append((f"models[{i}].defaults", model.get("defaults"), Defaults))
    for path, table, shape in tables:
        if isinstance(table, dict):
            _refuse_unknown_in(path, table, shape, make_error)


def _refuse_unknown_in(
    path: str, table: dict[str, Any], shape: type[msgspec.Struct], make_error: MakeError
) -> None:
    known = shape.__struct_fields__
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise make_error(f"{path}.{key}".lstrip("."), f"unknown key; {hint}")


def check(config: Config, make_error: MakeError) -> None:
    """Raise the error about the first value that contradicts another one or the machine."""
    _check_names(config, make_error)
    _check_host(config.server, make_error)
    _check_access(config.server, make_error)
    _check_telemetry(config.telemetry, make_error)
    _check_tables(config, make_error)
    _check_pins(config, make_error)


def _check_names(config: Config, make_error: MakeError) -> None:
    taken: dict[str, str] = {}
    for path, name in _names(config):
        if name in taken:
            raise make_error(path, f"{name!r} is already the name at {taken[name]}")
        taken[name] = path
    defaults = [i for i, model in enumerate(config.models) if model.default]
    if len(defaults) > 1:
        raise make_error(
            f"models[{defaults[1]}].default",
            f"at most one model may be the default; models[{defaults[0]}] is one already",
        )


def _names(config: Config) -> Iterator[tuple[str, str]]:
    for i, model in enumerate(config.models):
        yield f"models[{i}].id", model.id
        for k, alias in enumerate(model.aliases):
            yield f"models[{i}].aliases[{k}]", alias


def _check_host(server: ServerConfig, make_error: MakeError) -> None:
    if server.host == "localhost":
        return
    try:
        ipaddress.ip_address(server.host)
    except ValueError as error:
        raise make_error(
            "server.host", f"{server.host!r} is neither 'localhost' nor an IP address to listen on"
        ) from error


def _check_access(server: ServerConfig, make_error: MakeError) -> None:
    keyed = server.api_keys_file is not None or KEYS_VARIABLE in os.environ
    _check_trusted(server, make_error, keyed=keyed)
    if not (keyed or server.trusted or server.insecure or is_loopback(server.host)):
        raise make_error(
            "server.host",
            f"{server.host!r} can be reached from other machines, and there are no API keys: set"
            f" server.api_keys_file, {KEYS_VARIABLE} or server.trusted, or server.insecure = true",
        )
    if (server.tls_cert is None) != (server.tls_key is None):
        given, missing = ("tls_cert", "tls_key") if server.tls_cert else ("tls_key", "tls_cert")
        raise make_error(f"server.{given}", f"needs server.{missing} beside it")
    if "*" in server.cors_origins and len(server.cors_origins) > 1:
        raise make_error(
            "server.cors_origins", "'*' is every origin: the other entries have no effect"
        )


def _check_trusted(server: ServerConfig, make_error: MakeError, *, keyed: bool) -> None:
    for k, text in enumerate(server.trusted):
        try:
            read_network(text)
        except ValueError as error:
            raise make_error(f"server.trusted[{k}]", str(error)) from error
    if server.trusted and server.insecure and not keyed:
        raise make_error(
            "server.trusted",
            "has no effect: without keys, server.insecure lets every address send requests",
        )


def _check_telemetry(telemetry: TelemetryConfig, make_error: MakeError) -> None:
    if telemetry.endpoint is None:
        return
    if "@" in telemetry.endpoint:  # the endpoint is logged
        raise make_error("telemetry.endpoint", "credentials belong in $OTEL_EXPORTER_OTLP_HEADERS")
    if not _is_installed(EXPORTER):
        raise make_error(
            "telemetry.endpoint", "needs an extra: pip install 'mlx-worker[telemetry]'"
        )


def _is_installed(package: str) -> bool:
    """Return True if the package can be imported; nothing of the package is imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # a package around it is missing
        return False


def _check_tables(config: Config, make_error: MakeError) -> None:
    for i, model in enumerate(config.models):
        _check_environment(model.env, f"models[{i}].env", make_error)
        arguments = f"models[{i}].chat_template_kwargs"
        _check_template_arguments(model.chat_template_kwargs, arguments, make_error)


def _check_pins(config: Config, make_error: MakeError) -> None:
    for i, model in enumerate(config.models):
        if model.pin and model.idle_timeout is not None:
            raise make_error(f"models[{i}].idle_timeout", "a pinned model is never unloaded")


def _check_environment(env: Mapping[str, str], at: str, make_error: MakeError) -> None:
    """Raise the complaint about a variable that no process could be started with."""
    for name, value in env.items():
        if not _NAME.fullmatch(name):
            raise make_error(f"{at}.{name}", f"{name!r} is no name of a variable")
        if name in SET_BY_THE_NODE:
            raise make_error(f"{at}.{name}", "the node sets this variable for its children")
        if "\0" in value:
            raise make_error(f"{at}.{name}", "the value contains a NUL character")


def _check_template_arguments(given: Mapping[str, Any], at: str, make_error: MakeError) -> None:
    """Raise the complaint about an argument that could not be handed to a chat template."""
    for name, value in given.items():
        if name in RESERVED_ARGUMENTS:
            raise make_error(f"{at}.{name}", "is an argument of the tokenizer, not of the template")
        if (problem := too_much(value, _DEEPEST, _MOST_VALUES)) is not None:
            raise make_error(f"{at}.{name}", f"is {problem}")
        for scalar in _scalars_in(value):
            if not isinstance(scalar, _SCALARS):
                raise make_error(f"{at}.{name}", f"{scalar} is no text, number, true or false")
            if isinstance(scalar, int) and not -_LARGEST <= scalar < _LARGEST:
                raise make_error(f"{at}.{name}", f"{scalar} has more than 64 bits")


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
