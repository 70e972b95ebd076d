"""What a model's section may say of templates, prompts, paths and its process's environment."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mlx_worker.config.checks import RESERVED_ARGUMENTS, SET_BY_THE_NODE
from mlx_worker.config.load import parse_config
from mlx_worker.config.schema import Config, ModelConfig
from mlx_worker.engine.prompt import RESERVED
from mlx_worker.errors import ConfigError
from mlx_worker.models.resolve import plan
from mlx_worker.supervisor.process.launch.process import CHILD_ENVIRONMENT

if TYPE_CHECKING:
    from pathlib import Path

MODEL = '[[models]]\nid = "a"\npath = "p"\n'


def parsed(text: str, folder: Path) -> Config:
    return parse_config(text, source="node.toml", folder=folder)


def complaint(text: str, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(text, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_section_says_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("x")
    text = f"""{MODEL}
chat_template = "t.jinja"
system_prompt = "Be kind."
stop = ["END"]
tools = "prompt"
[models.chat_template_kwargs]
enable_thinking = false
deep = {{ list = [1, 2.5, "x", true] }}
[models.env]
MLX_METAL_FAST_SYNCH = "1"
[models.defaults]
seed = -5
presence_penalty = -2
frequency_penalty = 2
"""
    (model,) = parsed(text, tmp_path).models
    assert model.chat_template == tmp_path / "t.jinja"
    assert model.chat_template_kwargs["deep"] == {"list": [1, 2.5, "x", True]}
    assert (model.system_prompt, model.stop, model.tools) == ("Be kind.", ("END",), "prompt")
    assert model.env == {"MLX_METAL_FAST_SYNCH": "1"}
    assert (model.defaults.seed, model.defaults.presence_penalty) == (-5, -2)
    assert ModelConfig(id="a", path="p").tools == "refuse"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('tools = "drop"', "models[0].tools"),
        ('system_prompt = ""', "models[0].system_prompt"),
        ('stop = "END"', "models[0].stop"),
        ('stop = [""]', "models[0].stop[0]"),
        ("chat_template_kwargs = { tokenize = true }", "argument of the tokenizer"),
        (
            "[models.chat_template_kwargs]\ntools = []",
            "node.toml:5: models[0].chat_template_kwargs",
        ),
        ("chat_template_kwargs = { at = 1979-05-27 }", "no text, number, true or false"),
        ("chat_template_kwargs = { big = 9223372036854775808 }", "more than 64 bits"),
        ("env = { A = 1 }", "models[0].env"),
        ('env = { "A=B" = "1" }', "no name of a variable"),
        ('env = { "" = "1" }', "no name of a variable"),
        ('env = { A = "\\u0000" }', "NUL"),
        (
            '[models.env]\nTMPDIR = "/tmp"',
            "node.toml:5: models[0].env.TMPDIR: the node sets",
        ),
        ("[models.defaults]\nseed = 1.5", "models[0].defaults.seed"),
        ("[models.defaults]\npresence_penalty = 2.1", "models[0].defaults.presence_penalty"),
        ("[models.defaults]\nfrequency_penalty = -3", "models[0].defaults.frequency_penalty"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, lines: str, said: str) -> None:
    assert said in complaint(f"{MODEL}{lines}\n", tmp_path)


def test_a_template_nested_too_deeply_is_named(tmp_path: Path) -> None:
    deep = "[" * 70 + "]" * 70
    said = complaint(f"{MODEL}chat_template_kwargs = {{ deep = {deep} }}\n", tmp_path)
    assert "chat_template_kwargs.deep: is nested deeper than 64 levels" in said


def test_the_names_that_are_refused_are_those_that_are_taken() -> None:
    assert RESERVED <= RESERVED_ARGUMENTS
    assert {*CHILD_ENVIRONMENT, "TMPDIR"} == SET_BY_THE_NODE


# --- paths --------------------------------------------------------------------------------

EVERY_PATH = """
[server]
models_dir = "{0}/models"
api_keys_file = "{0}/keys"
tls_cert = "{0}/cert.pem"
tls_key = "{0}/key.pem"
[log]
file = "{0}/node.log"
[[models]]
id = "a"
path = "{0}/model"
draft = "{0}/draft"
warm = ["{0}/warm.txt"]
chat_template = "{0}/t.jinja"
"""


@pytest.mark.parametrize("written", ["$PLACE", "${PLACE}", "~", "$HOME", "${HOME}/../home"])
def test_variables_and_the_home_are_known_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("warm.txt", "t.jinja"):
        (home / name).write_text("x")
    monkeypatch.setenv("PLACE", str(home))
    monkeypatch.setenv("HOME", str(home))
    config = parsed(EVERY_PATH.replace("{0}", written), tmp_path / "elsewhere")
    (model,) = config.models
    files = [
        *(config.server.models_dir, config.server.api_keys_file, config.server.tls_cert),
        *(config.server.tls_key, config.log.file, *model.warm, model.chat_template),
    ]
    assert {file.parent.resolve() for file in files if file} == {home}
    if written != "~":  # the models folder's own search resolves that
        assert model.path.endswith("home/model")
        assert model.draft is not None
        assert model.draft.endswith("home/draft")


@pytest.mark.parametrize(
    "key",
    [
        *("models_dir", "api_keys_file", "tls_cert", "tls_key", "file"),
        *("path", "draft", "warm", "chat_template"),
    ],
)
@pytest.mark.parametrize(("value", "state"), [(None, "is not set"), ("", "is empty")])
def test_a_variable_that_is_not_there_is_named_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str | None, state: str
) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    if value is not None:
        monkeypatch.setenv("NOWHERE", value)
    lines = [
        line.replace("{0}", "$NOWHERE" if line.startswith(f"{key} =") else "/there")
        for line in EVERY_PATH.splitlines()
    ]
    said = complaint("\n".join(lines), tmp_path)
    assert f".{key}" in said
    assert f"the variable NOWHERE {state}" in said


@pytest.mark.parametrize(
    ("written", "meant"), [("a$$b", "a$b"), ("$$HOME", "$HOME"), ("a$", "a$"), ("$-x", "$-x")]
)
def test_a_dollar_sign_can_be_itself(tmp_path: Path, written: str, meant: str) -> None:
    (model,) = parsed(MODEL.replace('"p"', f'"{written}"'), tmp_path).models
    assert model.path == meant


# --- templates ----------------------------------------------------------------------------


def test_the_text_of_a_template_is_read_with_the_plan(tmp_path: Path, nano: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages }}", encoding="utf-8")
    text = f'[[models]]\nid = "a"\npath = "{nano}"\nchat_template = "t.jinja"\n'
    config = parsed(text, tmp_path)
    (planned,) = plan(config)
    assert planned.chat_template == "{{ messages }}"
    file.write_text("{{ messages }}", encoding="utf-8-sig")
    assert plan(config)[0].chat_template == "{{ messages }}", "no mark in front of each prompt"
    for wrong, why in ((b" \n", "is empty"), (b"\xff", "not UTF-8"), (b"\xff\xfe{", "UTF-16")):
        file.write_bytes(wrong)
        with pytest.raises(ConfigError, match=why):
            plan(config)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('kv_events = "5557"', ("node.toml:4: models[0].kv_events", "'5557'")),
        ('kv_events = "tcp://*:5557"', ("models[0].kv_events", "'tcp://*:5557'")),
        ('kv_events = "tcp://999.0.0.1:5557"', ("models[0].kv_events", "'999.0.0.1' is no IP")),
        ('kv_events = "tcp://127.0.0.1:70000"', ("models[0].kv_events", "70000 is no port")),
        (
            'kv_events_replay = "tcp://127.0.0.1:5558"',
            ("models[0].kv_events_replay", "needs models[0].kv_events beside it"),
        ),
        ('kv_events_topic = "kv"', ("models[0].kv_events_topic", "needs models[0].kv_events")),
        (
            'kv_events = "tcp://[::1]:5557"\nkv_events_replay = "tcp://[::1]:5557"',
            ("node.toml:5: models[0].kv_events_replay", "the address at models[0].kv_events"),
        ),
    ],
)
def test_an_address_of_events_that_cannot_be_is_named(
    keys: str, said: tuple[str, ...], tmp_path: Path
) -> None:
    message = complaint(f"{MODEL}{keys}\n", tmp_path)
    assert all(part in message for part in said), message


def test_no_events_are_published_unless_the_configuration_says_where(tmp_path: Path) -> None:
    (model,) = parsed(MODEL, tmp_path).models
    assert (model.kv_events, model.kv_events_replay, model.kv_events_topic) == (None, None, "")
    keys = 'kv_events = "tcp://[::1]:5557"\nkv_events_replay = "tcp://127.0.0.1:5557"\n'
    (model,) = parsed(MODEL + keys, tmp_path).models
    assert model.kv_events == "tcp://[::1]:5557"


WITHOUT = """
import sys
sys.modules["zmq"] = None
from pathlib import Path
from mlx_worker.config.load import parse_config
from mlx_worker.errors import ConfigError
try:
    parse_config(sys.argv[1], source="node.toml", folder=Path("/"))
except ConfigError as error:
    print(error)
"""


@pytest.mark.process
def test_events_without_the_extra_are_one_line_with_what_to_do(tmp_path: Path) -> None:
    text = f'{MODEL}kv_events = "tcp://127.0.0.1:5557"\n'
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, text], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "node.toml:4: models[0].kv_events: needs an extra: pip install 'mlx-worker[router]'\n"
    )
