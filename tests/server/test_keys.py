"""The keys of a node: how they are written, and what is said of those that cannot be."""

import os
from pathlib import Path

import pytest

from mlx_worker.config.load import parse_config
from mlx_worker.config.schema import KEYS_VARIABLE, ServerConfig
from mlx_worker.errors import ConfigError
from mlx_worker.security.api_keys import load_keys
from tests.server.conftest import KEY

MODEL = '[[models]]\nid = "a"\npath = "p"\n'


def complaint(server: ServerConfig, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_keys(server, environ or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, text: str) -> ServerConfig:
    file = folder / "keys"
    file.write_text(text)
    file.chmod(0o600)
    return ServerConfig(api_keys_file=file)


def test_a_file_has_names_keys_and_comments(keys: Path) -> None:
    known = load_keys(ServerConfig(api_keys_file=keys), {})
    assert known.name_of(KEY) == "alice"
    assert known.name_of("sk-of-bob-0123456789") == "bob"
    for wrong in ("", KEY[:-1], f"{KEY}0", KEY.upper(), "alice", "\udcff"):
        assert known.name_of(wrong) is None


@pytest.mark.parametrize("between", [",", "\n", " , "])
def test_the_environment_has_keys_beside_those_of_the_file(keys: Path, between: str) -> None:
    environ = {
        KEYS_VARIABLE: between.join(["carol:sk-of-carol-01234567", "dan:sk-of-dan-0123456789"])
    }
    known = load_keys(ServerConfig(api_keys_file=keys), environ)
    assert [name for name, _ in known.hashes] == ["alice", "bob", "carol", "dan"]
    assert known.name_of("sk-of-carol-01234567") == "carol"


def test_without_a_key_there_is_none() -> None:
    assert not load_keys(ServerConfig(), {})


def test_nothing_that_prints_the_keys_tells_one(keys: Path) -> None:
    assert "sk-of" not in repr(load_keys(ServerConfig(api_keys_file=keys), {}))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o611])
def test_a_file_that_others_may_use_is_refused(keys: Path, mode: int) -> None:
    keys.chmod(mode)
    said = complaint(ServerConfig(api_keys_file=keys))
    assert f"mode {mode:03o}" in said
    assert f"chmod 600 {keys}" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sk-of-dan-0123456789", "is not `name:key`"),
        (":sk-of-dan-0123456789", "is not `name:key`"),
        ("d n:sk-of-dan-0123456789", "is not `name:key`"),
        ("dan:sk-of-dan", "16 to 512 characters"),
        ("dan:", "16 to 512 characters"),
        ("dan:sk-of-dan 0123456789", "16 to 512 characters"),
        ("dan:sk-of-dän-0123456789", "16 to 512 characters"),
        ("alice:sk-of-dan-0123456789", "has a key already, at"),
    ],
)
def test_a_line_that_is_no_key_is_named_by_its_number_and_not_told(
    tmp_path: Path, line: str, said: str
) -> None:
    text = complaint(written(tmp_path, f"alice:{KEY}\n# dan's\n{line}\n"))
    assert text.startswith(f"{tmp_path / 'keys'}:3: ")
    assert said in text
    assert "sk-of" not in text


def test_a_name_that_stands_in_both_places_is_refused(keys: Path) -> None:
    said = complaint(ServerConfig(api_keys_file=keys), {KEYS_VARIABLE: "bob:sk-of-bob-9876543210"})
    assert said == f"{KEYS_VARIABLE}:1: 'bob' has a key already, at {keys}:4"


def test_a_place_for_keys_without_a_key_is_refused(tmp_path: Path) -> None:
    """Otherwise an empty file would open the node to every client."""
    assert "the list has no key" in complaint(written(tmp_path, "# nobody yet\n"))
    assert "the list has no key" in complaint(ServerConfig(), {KEYS_VARIABLE: ""})


def test_a_file_that_is_not_there_or_is_no_text_is_refused(tmp_path: Path) -> None:
    assert "no such file" in complaint(ServerConfig(api_keys_file=tmp_path / "none"))
    os.mkdir(tmp_path / "folder", 0o700)  # noqa: PTH102  (with its mode at once)
    assert "cannot be read" in complaint(ServerConfig(api_keys_file=tmp_path / "folder"))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    binary.chmod(0o600)
    assert "the encoding is UTF-16" in complaint(ServerConfig(api_keys_file=binary))
    binary.write_bytes(b"alice:\xff")
    assert "the text is not UTF-8: byte 6" in complaint(ServerConfig(api_keys_file=binary))


def test_a_mark_in_front_of_the_keys_is_no_part_of_a_name(tmp_path: Path) -> None:
    server = written(tmp_path, "\ufeffalice:sk-of-alice-0123456789\n")
    assert load_keys(server, {}).name_of("sk-of-alice-0123456789") == "alice"


# --- whether there have to be any ------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "fe80::1"])
def test_a_node_that_others_can_reach_needs_keys_or_the_word(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)

    def parsed(*lines: str) -> None:
        text = "\n".join(["[server]", f'host = "{host}"', *lines, MODEL])
        parse_config(text, source="node.toml", folder=Path("/etc/mlx"))

    with pytest.raises(ConfigError) as caught:
        parsed()
    for part in ("node.toml:2: server.host", host, "api_keys_file", KEYS_VARIABLE, "insecure"):
        assert part in str(caught.value)
    parsed("insecure = true")
    parsed('api_keys_file = "keys"')
    monkeypatch.setenv(KEYS_VARIABLE, "a:b")
    parsed()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_node_that_only_its_machine_can_reach_needs_none(host: str) -> None:
    text = f'[server]\nhost = "{host}"\n{MODEL}'
    assert parse_config(text, source="node.toml", folder=Path()).server.host == host
