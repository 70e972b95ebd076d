"""The settings of clients, printed for a node that runs."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest
import yaml

from mlx_worker.cli.client_blocks import CLIENTS
from mlx_worker.cli.client_blocks.client import ClientTarget
from mlx_worker.config.schema import KEY_VARIABLE
from tests.commands import Ran, command, run
from tests.front.asking import Front, Serve, model

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a-key-that-is-long-enough"
ODD = """it's a "model" of $HOME, é, 🚀"""
CONTEXT = 4096
"""Tokens that the scripted child says its model has."""


def url_of(front: Front) -> str:
    return str(front.client.make_url("")).rstrip("/")


async def printed(front: Front, *words: str) -> Ran:
    return await command("client-config", *words, "--url", url_of(front))


async def test_a_block_names_the_url_the_model_and_its_limits(serve: Serve) -> None:
    front = await serve(models=(model("a", aliases=("x",)),))
    said = (await printed(front, "codex")).said
    block, _, place = said.rpartition("Codex: ")
    settings = tomllib.loads(block)
    assert settings["model"] == "a"
    assert settings["model_context_window"] == CONTEXT
    assert settings["model_providers"]["mlx-worker"]["base_url"] == f"{url_of(front)}/v1"
    assert place == "in ~/.codex/config.toml\n"


async def test_a_context_too_short_for_the_client_is_named(serve: Serve) -> None:
    front = await serve(models=(model("a"),))
    said = (await printed(front, "claude-code")).said
    assert f"warning: Claude Code needs a context of 32000 tokens, and 'a' has {CONTEXT}" in said
    assert "warning" not in (await printed(front, "codex")).said


async def test_an_alias_may_be_asked_for(serve: Serve) -> None:
    front = await serve(models=(model("a", aliases=("x",)),))
    assert 'model = "x"' in (await printed(front, "codex", "--model", "x")).said


async def test_a_model_that_the_node_does_not_list_is_an_error_with_those_listed(
    serve: Serve,
) -> None:
    front = await serve(models=(model("a", aliases=("x",)),))
    ran = await printed(front, "codex", "--model", "b")
    assert ran.code == 66
    assert "no model 'b', only a, x" in ran.said


def test_an_unknown_client_is_an_error_with_the_names() -> None:
    ran = run("client-config", "no-such-client", "--url", "http://127.0.0.1:9")
    assert ran.code == 2
    for name in CLIENTS:
        assert f"'{name}'" in ran.said


@pytest.mark.parametrize("name", CLIENTS)
async def test_no_block_has_the_key(
    name: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    front = await serve()
    ran = await printed(front, name)
    assert ran.code == 0
    assert SECRET not in ran.said
    assert "key" in ran.said.lower()


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("context", [CONTEXT, None])
def test_a_block_is_of_its_language_whatever_the_model_is_called(
    name: str, context: int | None, tmp_path: Path
) -> None:
    client = CLIENTS[name]
    text = client.write(ClientTarget("http://127.0.0.1:8081", ODD, context))
    match client.language:
        case "python":
            compile(text, name, "exec")
        case "toml":
            assert tomllib.loads(text)["model"] == ODD
        case "json":
            assert ODD in json.loads(text)["provider"]["mlx-worker"]["models"]
        case "yaml":
            (entry,) = _entries(yaml.safe_load(text))
            assert entry["model_name"] == ODD
        case "sh":
            # The last line starts the client: say what it would be started with.
            *settings, start = text.strip().split("\n")
            script = "\n".join((*settings, f"printf '%s\\n' {start}", "env"))
            ran = subprocess.run(
                ["bash", "-euc", script],
                capture_output=True,
                text=True,
                check=True,
                cwd=tmp_path,
                env={"PATH": os.environ["PATH"], "MODEL_FOLDER": "/models/odd"},
            )
            assert ODD in ran.stdout
        case "javascript":
            assert text.count(json.dumps(ODD, ensure_ascii=False)) == 3
        case language:
            raise AssertionError(language)


def _entries(read: object) -> list[dict[str, object]]:
    """Return the entries of a list, or of a file's `model_list`."""
    if isinstance(read, dict):
        read = read["model_list"]
    assert isinstance(read, list)
    return read
