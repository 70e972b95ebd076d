"""The files that code writes are the ones that lie here, and say what the types say."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from msgspec.structs import fields

from mlx_worker.config import reference
from mlx_worker.config.load import parse_config
from mlx_worker.config.schema import Config
from mlx_worker.errors import ConfigError
from tests.tools import generated
from tests.tools.generated import FILES, ROOT
from tests.tools.pages import events


@pytest.mark.parametrize("name", FILES)
def test_what_is_kept_is_what_would_be_written(name: str) -> None:
    assert (ROOT / name).read_text() == FILES[name](), "run `python -m tests.tools.generated`"


def test_the_tool_writes_into_the_checkout_and_is_no_part_of_the_product() -> None:
    assert (ROOT / "pyproject.toml").is_file()
    assert Path(generated.__file__).is_relative_to(ROOT / "tests")


def test_every_event_that_the_source_records_is_a_public_name() -> None:
    listed = (ROOT / "tests" / "public_names.txt").read_text().partition("## Events ")[2]
    kinds = re.findall(r"^([a-z ]+?)(?::| \(named)", listed.partition("\n## ")[0], re.MULTILINE)
    assert kinds == sorted(events.recorded())


def test_no_section_is_left_out() -> None:
    tables = {field.name for field in fields(Config) if field.name not in ("file", "folder")}
    assert tables | {"models.defaults"} == set(reference.SECTIONS)


def test_every_key_is_described() -> None:
    described = [key.description for section in reference.SECTIONS for key in keys_of(section)]
    assert all(text.endswith(".") for text in described)


def keys_of(section: str) -> list[reference.Key]:
    return list(reference.keys(section))


@pytest.mark.parametrize(
    "file", sorted((ROOT / "config").glob("*.toml")), ids=lambda item: item.stem
)
def test_the_schema_takes_the_examples(file: Path) -> None:
    jsonschema_rs.validate(reference.json_schema(), tomllib.loads(file.read_text()))


MODEL: dict[str, Any] = {"id": "m", "path": "p"}


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"models": []},
        {"models": [{"id": "m"}]},
        {"models": [MODEL | {"max_queue": -1}]},
        {"models": [MODEL | {"aliases": [""]}]},
        {"models": [MODEL | {"defaults": {"top_p": -0.1}}]},
        {"models": [MODEL], "server": {"port": 65536}},
        {"models": [MODEL], "server": {"prot": 1}},
        {"models": [MODEL], "supervisor": {"memory_limit": 0.0}},
        {"models": [MODEL], "surprise": 1},
    ],
)
def test_schema_and_node_refuse_the_same(raw: dict[str, Any]) -> None:
    assert not jsonschema_rs.is_valid(reference.json_schema(), raw)
    with pytest.raises(ConfigError):
        parse_config(toml(raw), source="it", folder=ROOT)


def test_schema_and_node_take_every_default() -> None:
    raw = {
        section: {key.name: key.default for key in keys_of(section) if key.default is not None}
        for section in ("server", "supervisor", "models")
    }
    raw["models"].pop("defaults", None)
    whole = {**raw, "models": [raw["models"] | MODEL]}
    whole = json.loads(json.dumps(whole))
    jsonschema_rs.validate(reference.json_schema(), whole)
    assert parse_config(toml(whole), source="it", folder=ROOT).models[0].id == "m"


def toml(raw: dict[str, Any]) -> str:
    """TOML of JSON's values: inline tables are JSON with other separators."""
    return "\n".join(f"{key} = {_inline(value)}" for key, value in raw.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)
