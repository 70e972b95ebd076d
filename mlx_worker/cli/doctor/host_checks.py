"""Findings about the hosts that compute models together: each is asked, by its own command.

A host that is away, has other versions, has other files of a model or no room for its part is found
before a node needs the host. [front]
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from mlx_worker.cli.doctor.finding import Finding, bad, ok
from mlx_worker.cli.doctor.host_facts import (
    FolderFacts,
    HostFacts,
    HostQuestion,
    ModelCopy,
    facts_of,
)
from mlx_worker.config.host_checks import hosts_by_name
from mlx_worker.config.sizes import MODELS_SHARE, MemoryLimit, in_words
from mlx_worker.errors import WorkerError
from mlx_worker.models import folder_hash
from mlx_worker.models.folder_hash import differing
from mlx_worker.models.resolve import inspect_model
from mlx_worker.supervisor.process.launch.process import REMOTE_COMMAND

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Iterator

    from mlx_worker.config.schema import Config, HostConfig, ModelConfig
    from mlx_worker.models.folder import ModelFolder
    from mlx_worker.service.subprocess_runner import Run

    _Folders = dict[str, ModelFolder | WorkerError]

ANSWER_SECONDS: Final = 60.0
"""Seconds in which a host tells its facts: it imports mlx meanwhile."""

REACH_SECONDS: Final = 5.0

ROUND_TRIPS: Final = 50
BURST: Final = 8 << 20
"""Bytes that are sent and come back, to measure the network."""

INSTALL: Final = "install the same versions on all hosts"


@dataclass(frozen=True, slots=True)
class _Network:
    """What was measured of the network: seconds there and back, and bytes a second."""

    round_trip: float
    bandwidth: float


async def hosts(config: Config, run: Run) -> list[Finding]:
    """Ask each host that a model names; the other models and hosts are of no concern."""
    models = [model for model in config.models if model.hosts]
    if not models:
        return [ok("hosts", "no model has hosts")]
    known = hosts_by_name(config)
    used = dict.fromkeys(name for model in models for name in model.hosts)
    own = facts_of(run)
    folders = {model.id: _own_folder(config, model) for model in models}
    findings = [_of_host(known[name], own, own, None) for name in used if known[name].is_here]
    findings += _own_problems(folders)
    for name in used:
        if not known[name].is_here:
            of_host = [model for model in models if name in model.hosts]
            findings += await _ask(known[name], own, of_host, folders)
    return findings


def _own_folder(config: Config, model: ModelConfig) -> ModelFolder | WorkerError:
    try:
        return inspect_model(config, model)
    except WorkerError as error:
        return error


def _own_problems(folders: _Folders) -> Iterator[Finding]:
    for name, found in folders.items():
        if isinstance(found, WorkerError):
            yield bad(f"model {name}", str(found), "correct the model or its hosts")


async def _ask(
    host: HostConfig, own: HostFacts, models: list[ModelConfig], folders: _Folders
) -> list[Finding]:
    """Return the findings about one other host, and about its copies of these models."""
    question = HostQuestion(
        host.address, [ModelCopy(model.path, host.models_dir) for model in models]
    )
    subject = f"host {host.name}"
    try:
        process = await asyncio.create_subprocess_exec(
            *host.run,
            *REMOTE_COMMAND,
            "--describe",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
    except OSError as error:
        return [bad(subject, f"cannot start {host.run[0]}: {error.strerror}", "correct `run`")]
    try:
        return await _interview(process, question, host, own, models, folders)
    except (EOFError, TimeoutError, msgspec.MsgspecError) as error:
        said = str(error) or f"no answer within {ANSWER_SECONDS:g} s"
        return [bad(subject, said, f"try `{' '.join([*host.run, *REMOTE_COMMAND])} --describe`")]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _interview(
    process: Process,
    question: HostQuestion,
    host: HostConfig,
    own: HostFacts,
    models: list[ModelConfig],
    folders: _Folders,
) -> list[Finding]:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(msgspec.json.encode(question) + b"\n")
        await process.stdin.drain()
    line = await asyncio.wait_for(_line_of(process), ANSWER_SECONDS)
    facts = msgspec.json.decode(line, type=HostFacts)
    network: _Network | str = facts.problem
    if facts.port:
        network = await asyncio.to_thread(_measure, host.address, facts.port)
    findings = [_of_host(host, facts, own, network)]
    copies = msgspec.json.decode(await _line_of(process), type=list[FolderFacts])
    for model, copy in zip(models, copies, strict=True):
        folder = folders[model.id]
        if not isinstance(folder, WorkerError):
            findings.append(await _of_copy(host, facts, model, copy, folder))
    return findings


async def _line_of(process: Process) -> bytes:
    """Return the next line. Raises EOFError with what the process wrote to its stderr."""
    assert process.stdout is not None
    assert process.stderr is not None
    if line := await process.stdout.readline():
        return line
    written = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
    raise EOFError(written[-1] if written else f"ended with {await process.wait()}")


def _measure(address: str, port: int) -> _Network | str:
    """Measure the network to a host that sends back what it gets; return why that failed."""
    try:
        with socket.create_connection((address, port), REACH_SECONDS) as there:
            there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            began = time.perf_counter()
            for _ in range(ROUND_TRIPS):
                there.sendall(b".")
                there.recv(1)
            round_trip = (time.perf_counter() - began) / ROUND_TRIPS
            return _Network(round_trip, _bandwidth(there))
    except OSError as error:
        return f"{address} cannot be reached: {error.strerror or 'no answer'}"


def _bandwidth(there: socket.socket) -> float:
    """Return the bytes a second that go there while as many come back."""
    data = memoryview(bytes(1 << 16))
    sent = came = 0
    began = time.perf_counter()
    while came < BURST:
        if sent < BURST:
            sent += there.send(data[: BURST - sent])
        there.setblocking(sent >= BURST)
        with contextlib.suppress(BlockingIOError):
            came += len(there.recv(1 << 18))
        there.settimeout(REACH_SECONDS)
    return BURST / (time.perf_counter() - began)


def _of_host(
    host: HostConfig, facts: HostFacts, own: HostFacts, network: _Network | str | None
) -> Finding:
    """Return the finding about a host; `network` is a text where the host cannot be reached."""
    subject = f"host {host.name}"
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    said = (
        f"{host.address + ': ' if host.address else ''}{versions}, Python {facts.python}"
        f" on {facts.device}; {in_words(facts.memory)} of memory, {in_words(facts.available)} free"
    )
    if isinstance(network, _Network):
        said += f"; {network.round_trip * 1000:.2f} ms there and back"
        said += f", {in_words(int(network.bandwidth))}/s each way"
    elif network:
        return bad(subject, f"{network} ({said})", "check the cable and `address`")
    if facts.problem:
        return bad(subject, f"{facts.problem} ({said})", "reinstall mlx-worker there")
    if other := [name for name in own.versions if facts.versions.get(name) != own.versions[name]]:
        ours = ", ".join(f"{name} {own.versions[name]}" for name in other)
        return bad(subject, f"{said}; this machine has {ours}", INSTALL)
    return ok(subject, said)


async def _of_copy(
    host: HostConfig,
    facts: HostFacts,
    model: ModelConfig,
    copy: FolderFacts,
    folder: ModelFolder,
) -> Finding:
    """Return the finding about a host's copy of a model and about the room for its part."""
    subject = f"model {model.id}"
    if copy.problem:
        return bad(subject, f"on {host.name}: {copy.problem}", "copy the model's folder there")
    own = await asyncio.to_thread(folder_hash.whole, folder.path)
    if other := differing(own, copy.files):
        said = f"on {host.name}: {copy.folder} has other files: {', '.join(other[:3])}"
        return bad(subject, said, f"copy {folder.path} there")
    part = folder.weight_bytes // len(model.hosts)
    limit = MemoryLimit(host.memory_limit or MODELS_SHARE).of(facts.memory)
    said = (
        f"on {host.name}: {copy.folder}, the same files; its part of the weights has about"
        f" {in_words(part)}, models may take {in_words(limit)}"
    )
    if part > limit:
        return bad(subject, said, "name more hosts, or raise memory_limit of the host")
    if model.transport == "jaccl" and not facts.has_jaccl:
        return bad(subject, f"on {host.name}: its mlx has no JACCL", 'use transport = "ring"')
    return ok(subject, said)
