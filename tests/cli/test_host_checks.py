"""What the doctor finds of other hosts: each is a program that answers as a host would."""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from mlx_worker.cli.doctor.host_checks import hosts
from mlx_worker.cli.doctor.host_facts import FolderFacts, HostFacts, facts_of
from mlx_worker.config.load import parse_config
from mlx_worker.models import folder_hash
from mlx_worker.service.subprocess_runner import CommandResult
from tests.commands import run
from tests.namespaces import COMMANDS
from tests.processes import config_text
from tests.synthetic_models import make

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlx_worker.cli.doctor.finding import Finding

ANSWERS = "import sys; sys.stdin.readline(); print(*sys.argv[1:3], sep=chr(10))"


def ask_no_mlx(_command: Sequence[str]) -> CommandResult:
    return CommandResult(0, '["0.32.4", "0.32.2", "Device(gpu, 0)", true]')


OWN = facts_of(ask_no_mlx)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("pipelined", tmp_path_factory.mktemp("models") / "split-model")


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a host that sends back what it gets."""

    def send_back(server: socket.socket) -> None:
        visitor, _ = server.accept()
        with visitor:
            while data := visitor.recv(1 << 18):
                visitor.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=send_back, args=(server,))
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def findings_of(
    folder: Path, facts: HostFacts, copy: FolderFacts, host: str = ""
) -> dict[str, Finding]:
    lines = [msgspec.json.encode(line).decode() for line in (facts, [copy])]
    command = [sys.executable, "-c", ANSWERS, *lines]
    text = (
        f'[[models]]\nid = "big"\npath = "{folder}"\nhosts = ["here", "there"]\n'
        f'split = "pipeline"\n[[hosts]]\nname = "there"\naddress = "127.0.0.1"\n'
        f"run = {msgspec.json.encode(command).decode()}\n{host}"
    )
    config = parse_config(text, source="f.toml", folder=folder)
    found = asyncio.run(hosts(config, ask_no_mlx))
    return {finding.subject: finding for finding in found}


def same_files(folder: Path) -> FolderFacts:
    return FolderFacts("/there/big", folder_hash.whole(folder))


def test_host_that_has_the_same_is_well_and_measured(folder: Path, echo: int) -> None:
    facts = msgspec.structs.replace(OWN, port=echo)
    found = findings_of(folder, facts, same_files(folder))
    assert [finding.severity for finding in found.values()] == ["ok"] * 3
    assert "mlx 0.32.4" in found["host there"].said
    assert "ms there and back" in found["host there"].said
    assert "/s each way" in found["host there"].said
    assert "/there/big, the same files" in found["model big"].said


@pytest.mark.parametrize("name", ["mlx-worker", "mlx", "mlx-lm"])
def test_other_version_is_bad_with_both_versions(folder: Path, name: str) -> None:
    facts = msgspec.structs.replace(OWN, versions={**OWN.versions, name: "9.9"})
    finding = findings_of(folder, facts, same_files(folder))["host there"]
    assert finding.severity == "bad"
    assert f"{name} 9.9" in finding.said
    assert f"this machine has {name} {OWN.versions[name]}" in finding.said


def test_address_that_cannot_be_reached_is_bad(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    facts = msgspec.structs.replace(OWN, port=port)
    finding = findings_of(folder, facts, same_files(folder))["host there"]
    assert finding.severity == "bad"
    assert finding.said.startswith("127.0.0.1 cannot be reached: Connection refused")


def test_other_files_missing_folder_and_too_little_memory_are_bad(folder: Path) -> None:
    files = folder_hash.whole(folder)
    other = FolderFacts("/there/big", {**files, "config.json": "0"})
    finding = findings_of(folder, OWN, other)["model big"]
    assert (finding.severity, finding.said) == (
        "bad",
        "on there: /there/big has other files: config.json",
    )
    finding = findings_of(folder, OWN, FolderFacts(problem="Model not found: big"))["model big"]
    assert (finding.severity, finding.said) == ("bad", "on there: Model not found: big")
    finding = findings_of(folder, OWN, same_files(folder), "memory_limit = 1000\n")["model big"]
    assert finding.severity == "bad"
    assert finding.said.endswith("models may take 1.0 KB")


def test_host_that_does_not_answer_is_bad_with_its_last_line(folder: Path) -> None:
    text = (
        f'[[models]]\nid = "big"\npath = "{folder}"\nhosts = ["here", "there"]\n'
        'split = "pipeline"\n'
        '[[hosts]]\nname = "there"\naddress = "127.0.0.1"\n'
        f'run = ["{sys.executable}", "-c", "import sys; sys.exit(\'No route to host\')"]\n'
    )
    config = parse_config(text, source="f.toml", folder=folder)
    found = {finding.subject: finding for finding in asyncio.run(hosts(config, ask_no_mlx))}
    assert (found["host there"].severity, found["host there"].said) == ("bad", "No route to host")


@pytest.mark.full
def test_doctor_asks_a_host_with_its_own_command(folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(folder, models / "split-model")
    file = tmp_path / "mlx-worker.toml"
    more = (
        'hosts = ["here", "there"]\nsplit = "pipeline"\n[[hosts]]\nname = "there"\n'
        f'address = "127.0.0.1"\nmodels_dir = "{models}"\nrun = ["env", "PATH={COMMANDS}"]\n'
    )
    text = config_text({"split-model": folder}, extra=more).replace(
        f'path = "{folder}"', 'path = "split-model"'
    )
    file.write_text(text.replace("[server]", f'[server]\nmodels_dir = "{folder.parent}"'))
    ran = run("doctor", "--hosts", "--json", "--config", str(file))
    assert "ms there and back" in ran.said
    assert f"on there: {models / 'split-model'}, the same files" in ran.said
    assert ran.code == 0, ran.said
    checked = run("check", str(file))
    assert "split over 2 hosts (pipeline, ring): here, there 127.0.0.1" in checked.said
