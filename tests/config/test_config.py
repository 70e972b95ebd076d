"""The configuration file: what it may say, and what is said back when it may not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
from msgspec import structs

from mlx_worker.config.load import load_config, parse_config
from mlx_worker.config.schema import Config, ModelConfig, ServerConfig, SupervisorConfig
from mlx_worker.errors import ConfigError
from mlx_worker.supervisor import settings
from mlx_worker.supervisor.process.lifecycle import Timings
from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from mlx_worker.supervisor.requests.resume_policy import ResumePolicy
from mlx_worker.wire.framing import MAX_FRAME

MODEL = '[[models]]\nid = "a"\npath = "p"\n'
OTHER = '[[models]]\nid = "b"\npath = "q"\n'
FOLDER = Path("/etc/mlx")

WITHOUT = """
import sys
from pathlib import Path
from mlx_worker.config.load import parse_config
from mlx_worker.errors import ConfigError

sys.modules[sys.argv[1]] = None
try:
    parse_config(sys.argv[2], source="node.toml", folder=Path())
except ConfigError as error:
    print(error)
"""


def parsed(text: str, folder: Path = FOLDER) -> Config:
    return parse_config(text, source="node.toml", folder=folder)


def complaint(text: str, folder: Path = FOLDER) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(text, folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what it may say ----------------------------------------------------------------------


def test_a_model_needs_only_its_name_and_its_path() -> None:
    config = parsed(MODEL)
    assert config.server == ServerConfig(
        host="127.0.0.1",
        port=8081,
        models_dir=None,
        max_body_bytes=None,
    )
    assert config.models == (
        ModelConfig(
            id="a",
            path="p",
            aliases=(),
            default=False,
            preload=True,
            max_concurrency=32,
            max_queue=64,
            context_length=None,
            warm=(),
        ),
    )
    assert config.folder == FOLDER


def test_everything_that_can_be_said_is_heard(tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("You are a river.")
    config = parsed(
        dedent("""
            [server]
            host = "::1"
            port = 0
            models_dir = "/srv/models"
            max_body_bytes = 1_048_576

            [supervisor]
            stall_timeout = 600
            load_stall_timeout = 900.5
            resume_timeout = 0
            max_crashes = 1
            max_restarts = 0
            restart_window = 60
            backoff_initial = 0
            backoff_max = 10
            load_wait = 0
            drain_timeout = 5

            [[models]]
            id = "a"
            path = "/srv/models/a"
            aliases = ["gpt-4o", "current-model"]
            default = true
            preload = false
            max_concurrency = 4
            max_queue = 0
            context_length = 8192
            warm = ["system.txt"]

            [[models]]
            id = "b"
            path = "q"
        """),
        tmp_path,
    )
    assert config.server == ServerConfig("::1", 0, Path("/srv/models"), 1_048_576)
    assert config.supervisor == SupervisorConfig(600, 900.5, 0, 1, 0, 60, 0, 10, 0, 5)
    assert config.models[0] == ModelConfig(
        "a",
        "/srv/models/a",
        ("gpt-4o", "current-model"),
        default=True,
        preload=False,
        max_concurrency=4,
        max_queue=0,
        context_length=8192,
        warm=(tmp_path / "system.txt",),
    )
    assert [model.id for model in config.models] == ["a", "b"]


def test_the_default_model_is_the_one_that_says_so() -> None:
    config = parsed(MODEL + OTHER + "default = true\n")
    assert [model.default for model in config.models] == [False, True]


def test_without_a_default_there_is_none() -> None:
    assert not any(model.default for model in parsed(MODEL + OTHER).models)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0", "::", "::1", "10.1.2.3"])
def test_a_host_to_listen_on_is_an_address_or_localhost(host: str) -> None:
    text = f'server.host = "{host}"\nserver.insecure = true\n{MODEL}'
    assert parsed(text).server.host == host


def test_warm_files_lie_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "one.txt").write_text("1")
    elsewhere = tmp_path / "two.txt"
    elsewhere.write_text("2")
    config = parsed(MODEL + f'warm = ["prompts/one.txt", "{elsewhere}"]\n', tmp_path)
    assert config.models[0].warm == (tmp_path / "prompts" / "one.txt", elsewhere)


def test_the_models_folder_lies_beside_the_file_that_names_it() -> None:
    """As every relative path does: the node may be started from anywhere."""
    config = parsed(f'[server]\nmodels_dir = "models"\n{MODEL}')
    assert config.server.models_dir == FOLDER / "models"


def test_the_models_folder_may_be_in_the_users_home() -> None:
    config = parsed(f'[server]\nmodels_dir = "~/models"\n{MODEL}')
    assert config.server.models_dir == Path.home() / "models"


@pytest.mark.parametrize("part", ["config", "server", "model"])
def test_a_configuration_cannot_be_changed(part: str) -> None:
    config = parsed(MODEL)
    frozen = {"config": config, "server": config.server, "model": config.models[0]}[part]
    field = frozen.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(frozen, field, getattr(frozen, field))


# --- what it may not, and where -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 70000", ("server.port", "65535", "70000")),
        ("port = -1", ("server.port", ">= 0", "-1")),
        ('port = "8081"', ("server.port", "`int`", "'8081'")),
        ("port = true", ("server.port", "`int`", "True")),
        ("port = 80.5", ("server.port", "`int`", "80.5")),
        ("host = 3", ("server.host", "`str`", "3")),
        ('host = ""', ("server.host", ">= 1", "''")),
        ('host = "example.com"', ("server.host", "'example.com'", "IP address", "'localhost'")),
        ('host = "127.0.0.1:80"', ("server.host", "'127.0.0.1:80'")),
        ("models_dir = 3", ("server.models_dir", "path", "3")),
        ('models_dir = ""', ("server.models_dir", "path", "''")),
        ("max_body_bytes = 1023", ("server.max_body_bytes", "1024", "1023")),
        ("max_body_bytes = 10_000_000_000", ("server.max_body_bytes", "<=", "10000000000")),
    ],
)
def test_a_wrong_server_value_is_named_with_its_line(text: str, said: tuple[str, ...]) -> None:
    message = complaint(f"# a node\n[server]\n\n{text}\n{MODEL}")
    assert message.startswith("node.toml:4: ")
    assert [part for part in said if part not in message] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stall_timeout = 0", ("supervisor.stall_timeout", "> 0", "0")),
        ("load_stall_timeout = 0", ("supervisor.load_stall_timeout", "> 0", "0")),
        ("resume_timeout = -1", ("supervisor.resume_timeout", ">= 0", "-1")),
        ("max_crashes = 0", ("supervisor.max_crashes", ">= 1", "0")),
        ("max_restarts = -1", ("supervisor.max_restarts", ">= 0", "-1")),
        ("restart_window = 0", ("supervisor.restart_window", "> 0", "0")),
        ("backoff_initial = -1", ("supervisor.backoff_initial", ">= 0", "-1")),
        ("backoff_max = -1", ("supervisor.backoff_max", ">= 0", "-1")),
        ("load_wait = -1", ("supervisor.load_wait", ">= 0", "-1")),
        ("drain_timeout = -0.5", ("supervisor.drain_timeout", ">= 0", "-0.5")),
        ("drain_timeout = 86401", ("supervisor.drain_timeout", "86400", "86401")),
        ("drain_timeout = nan", ("supervisor.drain_timeout", ">= 0", "nan")),
        ("drain_timeout = inf", ("supervisor.drain_timeout", "86400", "inf")),
        ("memory_limit = 0", ("supervisor.memory_limit", "share", "0")),
        ('memory_limit = "much"', ("supervisor.memory_limit", "12GB", "'much'")),
        ("standbye = true", ("supervisor.standbye", "unknown key")),
    ],
)
def test_a_wrong_supervisor_value_is_named_with_its_line(text: str, said: tuple[str, ...]) -> None:
    message = complaint(f"# a node\n[supervisor]\n\n{text}\n{MODEL}")
    assert message.startswith("node.toml:4: ")
    assert [part for part in said if part not in message] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("endpoint = 4318", ("telemetry.endpoint", "expected `str", "4318")),
        ('endpoint = "127.0.0.1:4318"', ("telemetry.endpoint", "'127.0.0.1:4318'")),
        ('endpoint = "grpc://host:4317"', ("telemetry.endpoint", "'grpc://host:4317'")),
        ('endpoint = "http://host/?key=1"', ("telemetry.endpoint", "'http://host/?key=1'")),
        ('endpont = "http://host"', ("telemetry.endpont", "did you mean 'endpoint'")),
    ],
)
def test_a_wrong_telemetry_value_is_named_with_its_line(text: str, said: tuple[str, ...]) -> None:
    message = complaint(f"# a node\n[telemetry]\n\n{text}\n{MODEL}")
    assert message.startswith("node.toml:4: ")
    assert [part for part in said if part not in message] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("disk = 1", ("cache.disk", "bool")),
        ("disk_free_min = 0", ("cache.disk_free_min: 0 is under 1000000 bytes (1.0 MB)", "full")),
        (
            'disk_cache_bytes = "100KB"',
            ("cache.disk_cache_bytes: 100000 is under 1000000 bytes", "cache.disk = false"),
        ),
        ("disk_writes_per_day = -1", ("cache.disk_writes_per_day", "0 to 2**50")),
        ('path = ""', ("cache.path", "path")),
    ],
)
def test_a_wrong_cache_value_is_named_with_its_line(text: str, said: tuple[str, ...]) -> None:
    message = complaint(f"# a node\n[cache]\n\n{text}\n{MODEL}")
    assert message.startswith("node.toml:4: ")
    assert [part for part in said if part not in message] == []


def test_no_bytes_a_day_and_a_bound_for_a_tiny_model_are_no_mistake() -> None:
    text = '[cache]\ndisk_writes_per_day = 0\ndisk_cache_bytes = "1MB"\ndisk_free_min = "1MB"\n'
    assert parsed(text + MODEL).cache.disk_writes_per_day == 0


def test_the_folder_of_kv_on_disk_is_not_the_models_folder() -> None:
    text = '[cache]\npath = "m"\n[server]\nmodels_dir = "m"\n'
    assert "/etc/mlx/m is server.models_dir too" in complaint(text + MODEL)


def test_a_collectors_credentials_are_refused_and_not_repeated() -> None:
    message = complaint(f'[telemetry]\nendpoint = "http://me:marmalade@host"\n{MODEL}')
    assert message.startswith("node.toml:2: telemetry.endpoint: ")
    assert "OTEL_EXPORTER_OTLP_HEADERS" in message
    assert "marmalade" not in message


@pytest.mark.process
@pytest.mark.parametrize("package", ["opentelemetry", "opentelemetry.exporter.otlp.proto.http"])
def test_a_collector_without_the_extra_is_one_line_with_what_to_do(package: str) -> None:
    """In a process that has it not: None in sys.modules is how Python says so."""
    text = f'[telemetry]\nendpoint = "http://127.0.0.1:4318"\n{MODEL}'
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, package, text],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout == (
        "node.toml:2: telemetry.endpoint: needs an extra: pip install 'mlx-worker[telemetry]'\n"
    )
    assert parsed(text).telemetry.endpoint == "http://127.0.0.1:4318"


def test_what_the_supervisor_does_by_default_is_what_its_parts_do_by_default() -> None:
    """Written twice, because the configuration knows none of the parts."""
    assert settings.timings(SupervisorConfig()) == Timings()
    assert settings.restart_policy(SupervisorConfig()) == RestartPolicy()
    assert settings.resume_policy(SupervisorConfig(), ServerConfig()) == ResumePolicy()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id = 3", ("models[1].id", "`str`", "3")),
        ('id = ""', ("models[1].id", ">= 1", "''")),
        (f'id = "{"x" * 201}"', ("models[1].id", "200")),
        ('path = ""', ("models[1].path", ">= 1", "''")),
        ('aliases = "gpt"', ("models[1].aliases", "`array`", "'gpt'")),
        ('aliases = ["gpt", ""]', ("models[1].aliases[1]", ">= 1", "''")),
        ("default = 1", ("models[1].default", "`bool`", "1")),
        ('preload = "no"', ("models[1].preload", "`bool`", "'no'")),
        ("max_concurrency = 0", ("models[1].max_concurrency", ">= 1", "0")),
        ("max_concurrency = 1025", ("models[1].max_concurrency", "1024", "1025")),
        ("max_queue = -1", ("models[1].max_queue", ">= 0", "-1")),
        ("max_queue = 100_001", ("models[1].max_queue", "100000", "100001")),
        ("context_length = 7", ("models[1].context_length", ">= 8", "7")),
        ("context_length = 16777217", ("models[1].context_length", "16777216", "16777217")),
        ("warm = [3]", ("models[1].warm[0]", "path", "3")),
        ('drop_system_lines = ["*"]', ("models[1].drop_system_lines[0]", "'*'")),
        ('drop_system_lines = ["a*b"]', ("models[1].drop_system_lines[0]", "'a*b'")),
        ('warm = [""]', ("models[1].warm[0]", "path", "''")),
    ],
)
def test_a_wrong_model_value_is_named_with_its_line(text: str, said: tuple[str, ...]) -> None:
    key = text.partition(" ")[0]
    rest = "".join(f"{line}\n" for line in OTHER.splitlines()[1:] if not line.startswith(key))
    message = complaint(f"{MODEL}max_queue = 1\n\n[[models]]\n{text}\n{rest}")
    assert message.startswith("node.toml:7: ")
    assert [part for part in said if part not in message] == []


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"[server]\nprot = 1\n{MODEL}", 2, ("server.prot", "'port'")),
        (f"[server]\ncolour = 1\n{MODEL}", 2, ("server.colour", "host", "port", "models_dir")),
        (f"{MODEL}max-queue = 3\n", 4, ("models[0].max-queue", "'max_queue'")),
        (f"{MODEL}{OTHER}alias = []\n", 7, ("models[1].alias", "'aliases'")),
        (f"sever = 1\n{MODEL}", 1, ("sever", "'server'")),
        (f"{MODEL}\n[sever]\nport = 1\n", 5, ("sever", "'server'")),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest(
    text: str, line: int, said: tuple[str, ...]
) -> None:
    message = complaint(text)
    assert message.startswith(f"node.toml:{line}: ")
    assert "unknown key" in message
    assert [part for part in said if part not in message] == []


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"{MODEL}{OTHER}".replace('"b"', '"a"'), 5, ("models[1].id", "'a'", "models[0].id")),
        (f'{MODEL}{OTHER}aliases = ["x", "a"]', 7, ("models[1].aliases[1]", "models[0].id")),
        (f'{MODEL}aliases = ["b"]\n{OTHER}', 6, ("models[1].id", "'b'", "models[0].aliases[0]")),
        (f'{MODEL}aliases = ["x", "x"]\n', 4, ("models[0].aliases[1]", "models[0].aliases[0]")),
        (f'{MODEL}aliases = ["a"]\n', 4, ("models[0].aliases[0]", "'a'", "models[0].id")),
    ],
)
def test_a_name_belongs_to_one_model(text: str, line: int, said: tuple[str, ...]) -> None:
    message = complaint(text)
    assert message.startswith(f"node.toml:{line}: ")
    assert [part for part in said if part not in message] == []


def test_only_one_model_may_be_the_default() -> None:
    message = complaint(f"{MODEL}default = true\n{OTHER}default = true\n")
    assert message.startswith("node.toml:8: models[1].default: at most one")
    assert "models[0]" in message


def test_a_key_that_is_missing_is_named_with_the_line_of_its_table() -> None:
    assert complaint(f'{MODEL}\n[[models]]\nid = "b"\n') == (
        "node.toml:5: models[1].path: is required"
    )


def test_a_node_without_models_says_what_is_missing() -> None:
    assert complaint("[server]\nport = 1\n") == "node.toml: models: is required"


def test_an_empty_list_of_models_is_too_short() -> None:
    assert complaint("# none yet\nmodels = []\n").startswith("node.toml:2: models: ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param('\n[models]\nid = "a"\npath = "p"\n', 2, id="one bracket too few"),
        pytest.param(f"\nserver.port = 70000\n{MODEL}", 2, id="a dotted key"),
        pytest.param(f"\nserver = {{ port = 70000 }}\n{MODEL}", 2, id="an inline table"),
        pytest.param('\nmodels = [{ id = "a", path = "" }]\n', 2, id="an inline array"),
        pytest.param(f'\n[server]\n"port" = 70000\n{MODEL}', 3, id="a quoted key"),
        pytest.param(f"\n[ server ] # here\n  port=70000\n{MODEL}", 3, id="odd spaces"),
        pytest.param(f'{MODEL}aliases = [\n  "x",\n  "",\n]\n', 4, id="an array on many lines"),
    ],
)
def test_the_line_is_found_however_toml_is_written(text: str, line: int) -> None:
    assert complaint(text).startswith(f"node.toml:{line}: ")


def test_a_body_that_the_node_accepts_fits_a_frame_of_the_pipe() -> None:
    assert f"{MAX_FRAME}" in complaint(f"[server]\nmax_body_bytes = {MAX_FRAME + 1}\n{MODEL}")


def test_a_complaint_carries_the_key_it_is_about() -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(f"[server]\nport = 70000\n{MODEL}")
    assert caught.value.param == "server.port"


# --- the file itself ----------------------------------------------------------------------


def test_what_is_not_toml_is_refused_with_its_line() -> None:
    message = complaint("[server]\nport = \n")
    assert message.startswith("node.toml: not TOML: ")
    assert "line 2" in message


def test_a_file_is_read_with_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(MODEL, encoding="utf-8")
    parsed_alike = parse_config(MODEL, source=str(file), folder=tmp_path)
    assert load_config(file) == structs.replace(parsed_alike, file=file.resolve())


def test_the_folder_is_absolute_however_the_file_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node.toml").write_text(MODEL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("node.toml")).folder == tmp_path.resolve()


def test_a_complaint_about_a_file_begins_with_its_path(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f"[server]\nport = 70000\n{MODEL}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"{file}:2: server.port: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: there is no such file$"):
        load_config(tmp_path / "gone.toml")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes(b'[server]\nhost = "\xff"\n')
    with pytest.raises(
        ConfigError, match=r"node\.toml: cannot be read: the text is not UTF-8: byte 17"
    ):
        load_config(file)


def test_a_mark_in_front_of_utf8_is_no_part_of_the_file(tmp_path: Path) -> None:
    marked, plain = tmp_path / "marked.toml", tmp_path / "plain.toml"
    text = f"[server]\nport = 9000\n{MODEL}"
    marked.write_text(text, encoding="utf-8-sig")
    plain.write_text(text, encoding="utf-8")
    assert structs.replace(load_config(marked), file=None) == structs.replace(
        load_config(plain), file=None
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_a_file_of_another_encoding_is_refused_with_its_name(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "node.toml"
    mark = "\ufeff" if encoding.endswith("be") else ""
    file.write_bytes((mark + MODEL).encode(encoding))
    name = encoding.upper()[:6]
    with pytest.raises(ConfigError, match=rf"cannot be read: the encoding is {name}: save"):
        load_config(file)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: "):
        load_config(tmp_path)


# --- a model's defaults ---------------------------------------------------------------------


def test_defaults_belong_to_the_model_above_them() -> None:
    config = parsed(f"{MODEL}[models.defaults]\ntemperature = 0.7\n{OTHER}")
    assert [model.defaults.temperature for model in config.models] == [0.7, None]


def test_a_wrong_default_is_named_with_its_line() -> None:
    message = complaint(f"{MODEL}{OTHER}[models.defaults]\ntemperature = 3\n")
    assert message.startswith("node.toml:8: models[1].defaults.temperature: ")
    assert "<= 2" in message


def test_an_unknown_default_is_named_with_the_nearest() -> None:
    message = complaint(f"{MODEL}[models.defaults]\n\ntemprature = 1\n")
    assert message == (
        "node.toml:6: models[0].defaults.temprature: unknown key; did you mean 'temperature'?"
    )


def test_a_pinned_model_has_no_time_to_be_unloaded_after() -> None:
    message = complaint(f"{MODEL}pin = true\nidle_timeout = 60\n")
    assert "models[0].idle_timeout: a pinned model is never unloaded" in message


def test_a_limit_of_memory_is_a_share_of_this_machine_or_bytes() -> None:
    machine = psutil.virtual_memory().total
    for written, nbytes in ((0.5, machine // 2), ('"3GB"', 3 * 10**9), (4096, 4096)):
        config = parsed(f"[supervisor]\nmemory_limit = {written}\n{MODEL}")
        assert settings.memory_limit(config.supervisor) == nbytes
    by_default = settings.memory_limit(parsed(MODEL).supervisor)
    assert machine // 2 < by_default < machine


def test_bytes_may_be_written_with_a_unit() -> None:
    assert parsed(f'{MODEL}cache_bytes = "2GiB"\n').models[0].cache_bytes == 2 << 30
    message = complaint(f'{MODEL}cache_bytes = "2 parsecs"\n')
    for part in ("models[0].cache_bytes", "12GB", "2 parsecs"):
        assert part in message
