"""The configuration: one TOML file in, frozen typed values out.

Every error names the key, the value, the limit and the line, because the reader of such an error
has the file open in an editor. Nothing here touches a model: whether the folders exist and hold
models is asked by `mlx-worker check` and by the child that loads them. [both]
"""

from __future__ import annotations

import difflib
import importlib.util
import ipaddress
import os
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
import platformdirs

from mlx_worker.config.addresses import read_network
from mlx_worker.config.checks import check_environment, check_template_arguments
from mlx_worker.config.locate import expand_user, expand_variables
from mlx_worker.config.sampler_types import (
    DefaultTokens,
    Penalty,
    RepetitionPenalty,
    Seed,
    StopWord,
    Temperature,
    TopK,
    TopP,
    Unit,
)
from mlx_worker.config.sizes import Limit, Size
from mlx_worker.errors import ConfigError
from mlx_worker.system.text_files import decode_text
from mlx_worker.validation import explain

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = "mlx-worker"
FILE_NAME = "mlx-worker.toml"

KEYS_VARIABLE = "MLX_WORKER_API_KEYS"
"""In the environment: API keys beside those of `api_keys_file`."""

KEY_VARIABLE = "MLX_WORKER_API_KEY"
"""In the environment: the key that a command shows to its node."""

EXPORTER = "opentelemetry.exporter.otlp.proto.http"
"""The package of the extra `telemetry` that needs all others of it."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Interval = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
# The largest body must fit a frame of the pipe (wire.framing.MAX_FRAME).
Bytes = Annotated[int, msgspec.Meta(ge=1024, le=64 * 1024 * 1024)]

LogLevel = Literal["debug", "info", "warning", "error"]

ToolMode = Literal["refuse", "ignore", "prompt"]
"""What becomes of tools that are offered to a model whose chat template has no tool calls."""

SystemPrompt = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000_000)]

# An origin as browsers say it (scheme://host[:port]), or any.
Origin = Annotated[str, msgspec.Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s*]{1,200})$")]


BaseUrl = Annotated[str, msgspec.Meta(pattern=r"^https?://[^/\s?#]{1,255}(/[^\s?#]{0,1000})?$")]


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the front listens, who may ask, and what it accepts. `port` 0 takes a free one.

    `host_names` are those by which browsers may call a node without keys, beside `localhost` and
    the machine's own.

    Without `api_keys_file` (and without keys in the environment) everybody who reaches the port
    may ask: on another host than loopback that has to be said, by `insecure`. Addresses in
    `trusted` need no key for models, health, cache, warming and generation. `tls_cert` and
    `tls_key` are PEM files, both or neither. Pages of `cors_origins` may ask from a browser.
    `reasoning_summaries` says who gets reasoning as a summary in the Responses dialect too.
    At most `max_connections` do work at a time. One that has not sent a whole request for
    `idle_timeout` seconds is closed; a body may pause for `body_timeout`, and a client that takes
    nothing of its answer for `send_timeout` loses it. A body is at most `max_body_bytes` long;
    None: what the largest context of the models could hold.
    """

    host: Name = "127.0.0.1"
    port: Port = 8081
    models_dir: Path | None = None
    max_body_bytes: Bytes | None = None
    host_names: tuple[Name, ...] = ()
    api_keys_file: Path | None = None
    insecure: bool = False
    trusted: tuple[Name, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    cors_origins: tuple[Origin, ...] = ()
    reasoning_summaries: Literal["asked", "always"] = "asked"
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 1024
    idle_timeout: Interval = 75.0
    body_timeout: Interval = 20.0
    send_timeout: Interval = 60.0


class SupervisorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a child is given up as hung, when it is started again, and who waits how long for it.

    All but the counts in seconds. A child with work and no progress for `stall_timeout` is killed,
    one on its way up that has not said hello, or loads and is no byte further, for
    `load_stall_timeout` too. It comes back after a random delay of at most `backoff_initial`,
    doubled at each end up to `backoff_max`; after more than `max_restarts` ends in
    `restart_window` it is given up, and tried again slowly: after `retry_initial`, doubled each
    time up to `retry_max`. Where no model can be served for `exit_when_failed_for` the node ends
    (None: never). What a child was doing waits `resume_timeout` for the next one; a request that
    was there at `max_crashes` ends is refused. New requests wait `load_wait` for a model on its
    way. `drain_timeout`: how long running generations may take to finish once they are to.
    `standby`: spare children that have everything imported; a model that starts takes one, and
    only its weights have to be read. `memory_limit` is for the processes of all models together;
    None: what suits the machine.
    """

    stall_timeout: Interval = 120.0
    load_stall_timeout: Interval = 120.0
    resume_timeout: Seconds = 300.0
    max_crashes: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    max_restarts: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 6
    restart_window: Interval = 120.0
    backoff_initial: Seconds = 0.2
    backoff_max: Seconds = 30.0
    load_wait: Seconds = 30.0
    drain_timeout: Seconds = 30.0
    standby: Annotated[int, msgspec.Meta(ge=0, le=8)] = 1
    memory_limit: Limit | None = None
    retry_initial: Interval = 30.0
    retry_max: Interval = 600.0
    exit_when_failed_for: Interval | None = None


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request of this model means where it does not say; None: mlx_lm's own default."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Unit | None = None
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    max_tokens: DefaultTokens | None = None


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model: its name in requests, where it lies, and how much of it runs at once.

    `max_concurrency` is in decode rows, `max_queue` in requests that wait for one,
    `context_length` in tokens (None: the model's own), `cache_bytes` for the KV of cached prompts
    and running rows together, `prefill_pause` the seconds that reading a prompt may hold running
    streams up between two of their tokens, `warm` files that are prefilled after every load. A
    model that nobody needed for `idle_timeout` seconds (None: however long) is unloaded until
    somebody does; one with `pin` is never unloaded. A request may take `request_timeout` seconds
    in all, waiting included (None: as long as it takes).

    `chat_template` is a file that replaces the folder's template, and `chat_template_kwargs` are
    arguments that the template gets where a request has none of that name. `system_prompt` stands
    in a conversation without any system turn; `stop` are strings beside the request's. `tools`
    says what becomes of tools where the template has no tool calls. `env` are variables of this
    model's process.
    """

    id: Name
    path: Name
    aliases: tuple[Name, ...] = ()
    default: bool = False
    preload: bool = True
    pin: bool = False
    idle_timeout: Interval | None = None
    request_timeout: Interval | None = None
    max_concurrency: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    max_queue: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 64
    context_length: Annotated[int, msgspec.Meta(ge=8, le=1 << 24)] | None = None
    cache_bytes: Size = Size(4 << 30)
    prefill_pause: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.1
    defaults: Defaults = Defaults()
    warm: tuple[Path, ...] = ()
    chat_template: Path | None = None
    chat_template_kwargs: dict[str, Any] = {}
    system_prompt: SystemPrompt | None = None
    stop: Annotated[tuple[StopWord, ...], msgspec.Meta(max_length=16)] = ()
    tools: ToolMode = "refuse"
    env: dict[str, str] = {}


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the node logs: JSON lines or text (auto: text to a terminal), from which level on.

    To stderr, or to `file`, which begins anew at `max_bytes`; so many old ones are kept.
    """

    format: Literal["auto", "json", "console"] = "auto"
    level: LogLevel = "info"
    file: Path | None = None
    max_bytes: Size = Size(16 << 20)
    keep: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5


class TelemetryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where traces go: a collector's base URL for OTLP over HTTP; None: nowhere.

    Everything else about them is said by OpenTelemetry's own variables, `OTEL_*`.
    """

    endpoint: BaseUrl | None = None


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node. `folder` is where the file lies: relative paths start there.

    `file` is what it was read from, None where it was not.
    """

    models: Annotated[tuple[ModelConfig, ...], msgspec.Meta(min_length=1)]
    server: ServerConfig = ServerConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    folder: Path = Path()
    file: Path | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may stand at the top of the file."""

    models: Annotated[tuple[ModelConfig, ...], msgspec.Meta(min_length=1)]
    server: ServerConfig = ServerConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()


def default_file() -> Path:
    """`./mlx-worker.toml` where there is one, else the one in the user's config folder.

    Raises ConfigError where there is neither.
    """
    here, of_user = Path(FILE_NAME), platformdirs.user_config_path(APP) / FILE_NAME
    for file in (here, of_user):
        if file.exists():
            return file
    raise ConfigError(
        f"there is neither ./{here} nor {of_user}: write one, or name another with --config"
    )


def load_config(file: Path) -> Config:
    """Read and check a file. Raises ConfigError with one line that says what to mend."""
    try:
        text = decode_text(file.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    config = parse_config(text, source=str(file), folder=file.resolve().parent)
    return msgspec.structs.replace(config, file=file.resolve())


def parse_config(text: str, *, source: str, folder: Path) -> Config:
    """The same from text; `source` names it in errors."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from error
    complain = _Complaint(source, text, raw)
    _refuse_unknown_keys(raw, complain)
    try:
        parsed = msgspec.convert(raw, _File, strict=True, dec_hook=_read)
    except msgspec.ValidationError as error:
        raise complain.about_type(error) from error
    config = Config(
        models=tuple(
            _anchored_model(model, _Anchor(folder, f"models[{i}]", complain))
            for i, model in enumerate(parsed.models)
        ),
        server=_anchored(parsed.server, _Anchor(folder, "server", complain)),
        supervisor=parsed.supervisor,
        log=_anchored(parsed.log, _Anchor(folder, "log", complain)),
        telemetry=parsed.telemetry,
        folder=folder,
    )
    _check_names(config, complain)
    _check_host(config.server, complain)
    _check_border(config.server, complain)
    _check_telemetry(config.telemetry, complain)
    _check_tables(config, complain)
    _check_pins(config, complain)
    return config


def _read(kind: type[Any], value: Any) -> Any:
    """The types that TOML does not have."""
    if kind in (Size, Limit):
        return kind.read(value)
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError("Expected a path")


@dataclass(frozen=True, slots=True)
class _Anchor:
    """Where the paths of a section start, and how to complain about one."""

    folder: Path
    section: str
    complain: _Complaint

    def text(self, key: str, text: str) -> str:
        """The text with its variables replaced."""
        try:
            return expand_variables(text)
        except ValueError as error:
            raise self.complain(f"{self.section}.{key}", str(error)) from error

    def path(self, key: str, path: Path) -> Path:
        """The path as the file's reader means it."""
        return self.folder / expand_user(Path(self.text(key, str(path))))


S = TypeVar("S", bound=msgspec.Struct)


def _anchored(section: S, anchor: _Anchor) -> S:
    """The section with every path in it absolute."""
    paths = {
        key: anchor.path(key, value)
        for key in section.__struct_fields__
        if isinstance(value := getattr(section, key), Path)
    }
    return msgspec.structs.replace(section, **paths)


def _anchored_model(model: ModelConfig, anchor: _Anchor) -> ModelConfig:
    return msgspec.structs.replace(
        _anchored(model, anchor),
        path=anchor.text("path", model.path),
        warm=tuple(anchor.path(f"warm[{k}]", path) for k, path in enumerate(model.warm)),
    )


# --- checks beyond types ------------------------------------------------------------------


def _refuse_unknown_keys(raw: dict[str, Any], complain: _Complaint) -> None:
    tables: list[tuple[str, Any, type[msgspec.Struct]]] = [("", raw, _File)]
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
            _refuse_unknown_in(path, table, shape, complain)


def _refuse_unknown_in(
    path: str, table: dict[str, Any], shape: type[msgspec.Struct], complain: _Complaint
) -> None:
    known = shape.__struct_fields__
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise complain(f"{path}.{key}".lstrip("."), f"unknown key; {hint}")


def _check_names(config: Config, complain: _Complaint) -> None:
    taken: dict[str, str] = {}
    for path, name in _names(config):
        if name in taken:
            raise complain(path, f"{name!r} is already the name at {taken[name]}")
        taken[name] = path
    defaults = [i for i, model in enumerate(config.models) if model.default]
    if len(defaults) > 1:
        raise complain(
            f"models[{defaults[1]}].default",
            f"at most one model may be the default; models[{defaults[0]}] is one already",
        )


def _names(config: Config) -> Iterator[tuple[str, str]]:
    for i, model in enumerate(config.models):
        yield f"models[{i}].id", model.id
        for k, alias in enumerate(model.aliases):
            yield f"models[{i}].aliases[{k}]", alias


def _check_host(server: ServerConfig, complain: _Complaint) -> None:
    if server.host == "localhost":
        return
    try:
        ipaddress.ip_address(server.host)
    except ValueError as error:
        raise complain(
            "server.host", f"{server.host!r} is neither 'localhost' nor an IP address to listen on"
        ) from error


def is_loopback(host: str) -> bool:
    """Can only this machine reach it?"""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _check_border(server: ServerConfig, complain: _Complaint) -> None:
    keyed = server.api_keys_file is not None or KEYS_VARIABLE in os.environ
    _check_trusted(server, complain, keyed=keyed)
    if not (keyed or server.trusted or server.insecure or is_loopback(server.host)):
        raise complain(
            "server.host",
            f"{server.host!r} can be reached by others, and there are no API keys: set"
            f" server.api_keys_file, {KEYS_VARIABLE} or server.trusted, or server.insecure = true",
        )
    if (server.tls_cert is None) != (server.tls_key is None):
        given, missing = ("tls_cert", "tls_key") if server.tls_cert else ("tls_key", "tls_cert")
        raise complain(f"server.{given}", f"needs server.{missing} beside it")
    if "*" in server.cors_origins and len(server.cors_origins) > 1:
        raise complain("server.cors_origins", "'*' is every origin: the others say nothing")


def _check_trusted(server: ServerConfig, complain: _Complaint, *, keyed: bool) -> None:
    for k, text in enumerate(server.trusted):
        try:
            read_network(text)
        except ValueError as error:
            raise complain(f"server.trusted[{k}]", str(error)) from error
    if server.trusted and server.insecure and not keyed:
        raise complain(
            "server.trusted", "has no effect: without keys, server.insecure lets every address ask"
        )


def _check_telemetry(telemetry: TelemetryConfig, complain: _Complaint) -> None:
    if telemetry.endpoint is None:
        return
    if "@" in telemetry.endpoint:  # it stands in logs
        raise complain("telemetry.endpoint", "credentials belong in $OTEL_EXPORTER_OTLP_HEADERS")
    if not _is_installed(EXPORTER):
        raise complain("telemetry.endpoint", "needs an extra: pip install 'mlx-worker[telemetry]'")


def _is_installed(package: str) -> bool:
    """Could it be imported? Nothing of it is."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # one that it lies in
        return False


def _check_tables(config: Config, complain: _Complaint) -> None:
    for i, model in enumerate(config.models):
        check_environment(model.env, f"models[{i}].env", complain)
        arguments = f"models[{i}].chat_template_kwargs"
        check_template_arguments(model.chat_template_kwargs, arguments, complain)


def _check_pins(config: Config, complain: _Complaint) -> None:
    for i, model in enumerate(config.models):
        if model.pin and model.idle_timeout is not None:
            raise complain(f"models[{i}].idle_timeout", "a pinned model is never unloaded")


# --- saying where -------------------------------------------------------------------------


class _Complaint:
    """Turns a key's path into a ConfigError that names file, line, key and value."""

    def __init__(self, source: str, text: str, raw: dict[str, Any]) -> None:
        self._source = source
        self._lines = text.splitlines()
        self._raw = raw

    def __call__(self, path: str, problem: str) -> ConfigError:
        line = self._line_of(path)
        where = f"{self._source}:{line}" if line else self._source
        return ConfigError(f"{where}: {path}: {problem}", param=path)

    def about_type(self, error: msgspec.ValidationError) -> ConfigError:
        """What msgspec found wrong."""
        path, problem = explain(error, self._raw, _File)
        return self(path or "the file", problem)

    def _line_of(self, path: str) -> int | None:
        """The line of a key, or of what it stands in."""
        found = [
            (len(place), line) for line, place in _places(self._lines) if _encloses(place, path)
        ]
        return max(found)[1] if found else None


_KEY = r"""(?:"[^"]*"|'[^']*'|[\w-]+)"""
_KEYS = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_KEYS})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_KEYS})\s*=")


def _places(lines: list[str]) -> Iterator[tuple[int, str]]:
    """(line number, path) of every header and key; what is inside inline values is not read."""
    table = ""
    counts: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if header := _HEADER.match(line):
            table = _within(_plain(header[2]), counts)
            if header[1] == "[[":
                counts[table] += 1
                table = f"{table}[{counts[table] - 1}]"
            yield number, table
        elif assignment := _ASSIGNMENT.match(line):
            yield number, f"{table}.{_plain(assignment[1])}".lstrip(".")


def _within(table: str, counts: Counter[str]) -> str:
    """[models.defaults] belongs to the [[models]] that stands above it."""
    outer, dot, inner = table.partition(".")
    return f"{outer}[{counts[outer] - 1}].{inner}" if dot and counts[outer] else table


def _plain(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


def _encloses(place: str, path: str) -> bool:
    return path == place or path.startswith((f"{place}.", f"{place}["))
