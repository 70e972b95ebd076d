"""`cache ls`, `cache verify` and `cache clear` on a folder at rest, and of a node that runs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from mlx_worker.kv_disk.files.folder import lock, open_root
from mlx_worker.kv_disk.files.names import record_model
from tests.commands import run
from tests.kv_disk.disk_harness import IDENTITY, OTHER, Disk, single

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.kv_disk.files.keys import KvIdentity

ID, OTHER_ID = IDENTITY.digest.hex(), OTHER.digest.hex()


def store(disk: Disk, identity: KvIdentity, model: str | None, *, count: int = 3) -> None:
    at_rest = disk.open(identity)
    for number in range(count):
        at_rest.put(single(number))
    if model is not None:
        record_model(disk.folder, identity.digest, model)
    at_rest.close()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The folder of a configuration: of the model nano, and of one that nothing names."""
    disk = Disk(tmp_path / "kv")
    store(disk, IDENTITY, "nano")
    disk.time += 60
    store(disk, OTHER, None, count=1)
    (tmp_path / "mlx-worker.toml").write_text(
        f'[server]\nport = 1\n[cache]\npath = "{disk.folder}"\n'
        '[[models]]\nid = "nano"\npath = "/nowhere"\n'
    )
    monkeypatch.chdir(tmp_path)
    return disk


def test_cache_ls_of_a_folder_at_rest_lists_models_and_identities(disk: Disk) -> None:
    ran = run("cache", "ls")
    assert ran.code == 0
    head, unnamed, nano = ran.said.splitlines()
    assert head.split() == ["model", "identity", "records", "tokens", "size", "last", "used"]
    assert unnamed.split()[:4] == ["-", OTHER_ID[:12], "1", "3"]
    assert nano.split()[:4] == ["nano", ID[:12], "3", "9"]


def test_cache_ls_json_is_what_a_node_answers(disk: Disk) -> None:
    body = json.loads(run("cache", "ls", "--json").said)
    assert (body["path"], body["off"]) == (str(disk.folder), "")
    assert [kv["identity"] for kv in body["stored"]] == [OTHER_ID, ID]
    assert body["stored"][1] == {
        "identity": ID,
        "models": ["nano"],
        "records": 3,
        "tokens": 9,
        "bytes": sum(path.stat().st_size for path in (disk.folder / ID).glob("*.seg")),
        "lastUsed": (disk.time - 60) * 1000,
    }


def test_cache_ls_of_no_folder_or_a_foreign_one_is_one_line(tmp_path: Path) -> None:
    assert run("cache", "ls", "--path", str(tmp_path / "none")).said.startswith("nothing in ")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter").touch()
    ran = run("cache", "ls", "--path", str(foreign))
    assert ran.code == 73
    assert "is no folder of the KV cache: left alone" in ran.said


def test_cache_verify_deletes_damaged_records_and_ends_with_65(disk: Disk) -> None:
    ran = run("cache", "verify")
    assert (ran.code, ran.said.count("records are right")) == (0, 2)
    (segment,) = (disk.folder / ID).glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)
    ran = run("cache", "verify", "nano", "--json")
    assert ran.code == 65
    (verified,) = json.loads(ran.said)["verified"]
    assert verified == {
        "identity": ID,
        "models": ["nano"],
        "right": 2,
        "wrong": 1,
        "deleted": 1,
        "unreadableBytes": 0,
    }
    ran = run("cache", "verify", ID[:8])
    assert (ran.code, ran.said) == (0, f"nano ({ID[:12]}): 2 records are right\n")


def test_cache_verify_beside_a_node_reports_and_leaves_the_rest_to_the_node(disk: Disk) -> None:
    (segment,) = (disk.folder / ID).glob("*.seg")
    in_use = disk.open()
    segment.write_bytes(segment.read_bytes()[:-1] + b"?")
    ran = run("cache", "verify", "nano")
    assert ran.code == 65
    assert "2 records are right, 1 are damaged, 0 of them deleted, 1 in use by a node" in ran.said
    in_use.close()


def test_cache_clear_of_one_model_at_rest_leaves_the_others(disk: Disk) -> None:
    assert run("cache", "clear", "nano").said == "cleared: nano\n"
    assert [kv["identity"] for kv in json.loads(run("cache", "ls", "--json").said)["stored"]] == [
        OTHER_ID
    ]
    assert json.loads(run("cache", "clear", "--json").said) == {"cleared": [OTHER_ID]}
    assert run("cache", "clear").said == "cleared: nothing\n"


def test_cache_clear_of_an_unknown_model_names_the_known_ones(disk: Disk) -> None:
    ran = run("cache", "clear", "nana")
    assert ran.code == 66
    assert f"has no model 'nana', only {OTHER_ID}, nano; did you mean 'nano'?" in ran.said


def test_cache_clear_of_a_folder_that_a_node_has_locked_is_refused(disk: Disk) -> None:
    root = open_root(disk.folder)
    held = lock(root, "node")
    ran = run("cache", "clear")
    os.close(held)
    os.close(root)
    assert ran.code == 75
    assert f"a node uses {disk.folder}" in ran.said
    assert len(disk.segments) == 2


def test_cache_commands_with_a_url_ask_only_that_node(disk: Disk) -> None:
    for words in (("ls",), ("clear",)):
        assert run("cache", *words, "--url", "127.0.0.1:1").code == 69
    assert len(disk.segments) == 2
