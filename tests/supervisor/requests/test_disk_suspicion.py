"""Records on disk that a process read shortly before its death: suspected, avoided, forgiven."""

import dataclasses
from pathlib import Path

import pytest

from mlx_worker.config.schema import CacheConfig
from mlx_worker.config.sizes import Size
from mlx_worker.supervisor.process.states import State
from mlx_worker.supervisor.requests.disk_suspicion import (
    MOST,
    SUSPECT_SECONDS,
    DiskSuspects,
    SuspectedRead,
)
from mlx_worker.wire.messages import Load
from tests.fake_worker import RECORDS
from tests.supervisor_harness import (
    AT_ONCE,
    PATIENT,
    QUICK,
    chat,
    kill_worker,
    planned,
    ready,
    running,
    scripted,
    soon,
    text_of,
    whole_text,
)

READ = SuspectedRead((b"a", b"b"), at=100.0)


def test_what_was_read_is_suspected_until_a_token_and_a_while_have_passed() -> None:
    assert READ.suspects(100 + SUSPECT_SECONDS, awaits_token=False) == (b"a", b"b")
    assert READ.suspects(101 + SUSPECT_SECONDS, awaits_token=False) == ()
    assert READ.suspects(9999, awaits_token=True) == (b"a", b"b")


def test_suspects_are_bounded_and_the_oldest_are_forgotten() -> None:
    suspects = DiskSuspects()
    suspects.add([b"old", b"again"])
    suspects.add([number.to_bytes(4, "big") for number in range(MOST - 2)])
    suspects.add([b"again", b"new"])
    assert len(suspects.records) == MOST
    assert b"old" not in suspects.records
    assert suspects.records[-2:] == [b"again", b"new"]


def on_disk(folder: Path) -> CacheConfig:
    return CacheConfig(path=folder, disk_cache_bytes=Size(10**9), disk_free_min=Size(1))


def suspects_of(load: Load) -> list[bytes] | None:
    return None if load.disk is None else load.disk.suspects


@pytest.mark.parametrize("when", [(), ("--restore",)])
async def test_a_record_that_ends_a_process_is_not_read_by_the_next(
    when: tuple[str, ...], tmp_path: Path
) -> None:
    worker = scripted("--die-of-records", "1", *when)
    async with running(launcher=worker, cache=on_disk(tmp_path / "kv")) as node:
        await ready(node)
        model = node.primary
        generation = await soon(node.client.generate(model, chat("one two three")))
        assert await whole_text(generation) == "one two three"
        assert (generation.crashes, generation.disk_crashes) == (1, 1)
        assert suspects_of(model.load) == [], "the process that took over has set it aside"


async def test_a_record_that_ends_a_process_in_a_warm_is_not_read_by_the_next(
    tmp_path: Path,
) -> None:
    worker = scripted("--die-of-records", "1", "--restore")
    async with running(launcher=worker, cache=on_disk(tmp_path / "kv")) as node:
        await ready(node)
        model = node.primary
        first = model.child.status.pid
        warmed = await soon(node.client.warm(model, "one two three"))
        assert warmed.tokens == 3
        assert model.child.status.pid != first
        assert suspects_of(model.load) == [], "the process that took over has set it aside"


async def test_a_request_whose_records_end_each_process_goes_on_without_disk(
    tmp_path: Path,
) -> None:
    """Each process reads the record before the one under suspicion, and all of them are bad."""
    worker = scripted("--die-of-records", str(len(RECORDS)))
    async with running(launcher=worker, cache=on_disk(tmp_path / "kv")) as node:
        await ready(node)
        model = node.primary
        generation = await soon(node.client.generate(model, chat("one two three")))
        assert await whole_text(generation) == "one two three"
        assert (generation.crashes, generation.disk_crashes) == (2, 2)
        assert model.dispatcher.disk_suspects.records == [RECORDS[1]], "kept for one with a disk"


async def test_the_last_process_before_a_model_is_given_up_has_no_disk(tmp_path: Path) -> None:
    policy = dataclasses.replace(AT_ONCE, intensity=1)
    patient = dataclasses.replace(PATIENT, max_crashes=9)
    worker = scripted("--die-of-records", str(len(RECORDS)))
    cache = on_disk(tmp_path / "kv")
    async with running(launcher=worker, cache=cache, policy=policy, resume=patient) as node:
        await ready(node)
        generation = await soon(node.client.generate(node.primary, chat("one two three")))
        assert await whole_text(generation) == "one two three"
        assert generation.crashes == 1
        assert node.primary.load.disk is None


async def test_a_model_without_kv_on_disk_is_told_of_none(tmp_path: Path) -> None:
    models = (planned("a"), planned("b", disk_cache=False))
    async with running(*models, launcher=scripted(), cache=on_disk(tmp_path / "kv")) as node:
        assert suspects_of(node.named("a").load) == []
        assert node.named("b").load.disk is None


async def test_a_process_that_is_stopped_makes_no_suspects(tmp_path: Path) -> None:
    cache = on_disk(tmp_path / "kv")
    async with running(launcher=scripted("--every", "0.01"), cache=cache, timings=QUICK) as node:
        await ready(node)
        model = node.primary
        generation = await soon(node.client.generate(model, chat("word " * 1000)))
        await text_of(generation)
        node.restart(model)
        await soon(model.child.reached(State.DRAINING))
        model.child.cut_drain_short()
        await soon(model.child.reached(State.READY))
        assert generation.crashes == 0
        assert suspects_of(model.load) == []
        before = len(generation.tokens)
        while len(generation.tokens) == before:
            assert await text_of(generation)
        kill_worker(model.child.status.pid)
        await soon(model.child.reached(State.BACKOFF, State.STARTING, State.LOADING))
        assert suspects_of(model.load) == [RECORDS[0]]
        generation.cancel()
