"""What the node says of the KV on disk, and how it is cleared: with scripted children."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.config.schema import CacheConfig
from mlx_worker.config.sizes import Size
from mlx_worker.kv_disk.files.names import record_model
from tests.commands import command
from tests.fake_worker import DISK_RECORD
from tests.front.asking import PROMPT, model
from tests.front.test_page import next_report
from tests.kv_disk.disk_harness import IDENTITY, OTHER, Disk, single
from tests.supervisor_harness import NO_DISK, eventually, kill_worker, soon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.front.asking import Front, Serve

FROM_DISK = ("--disk-tokens", "3")
CAPACITY = 10**9


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """The folder of the node."""
    return Disk(tmp_path / "kv")


@pytest.fixture
def cache(disk: Disk) -> CacheConfig:
    most, daily = Size(CAPACITY), Size(2 * CAPACITY)
    return CacheConfig(path=disk.folder, disk_cache_bytes=most, disk_writes_per_day=daily)


async def cached(front: Front, model_id: str = "m") -> dict[str, Any]:
    """Return what the node says of a model's cache."""
    body: dict[str, Any] = (await front.ask(f"/cache?model={model_id}")).json
    return body


async def reaches(front: Front, **figures: Any) -> dict[str, Any]:
    """Wait until the node says this of a model's KV on disk; return all of that."""

    async def so() -> bool:
        disk = (await cached(front))["disk"]
        return all(disk[name] == value for name, value in figures.items())

    await eventually(so)
    found: dict[str, Any] = (await cached(front))["disk"]
    return found


async def hit(front: Front) -> None:
    """Have a prompt read of which three tokens are on disk and one is in memory."""
    await front.ask("/cache/warm", {"system_prompt": PROMPT})
    assert (await front.chat("hello", system=PROMPT)).status == 200


def store(disk: Disk, identity: Any, model_id: str) -> None:
    """Leave records of a model in the folder."""
    at_rest = disk.open(identity)
    at_rest.put(single(1))
    record_model(disk.folder, identity.digest, model_id)
    at_rest.close()


# --- reports ----------------------------------------------------------------------------


async def test_cache_tells_what_is_on_disk_and_where_tokens_came_from(
    serve: Serve, cache: CacheConfig, disk: Disk
) -> None:
    front = await serve(*FROM_DISK, cache=cache)
    assert (await cached(front))["disk"] == {
        "enabled": True,
        "off": "",
        "records": 0,
        "bytes": 0,
        "totalBytes": 0,
        "capacity": CAPACITY,
        "writtenToday": 0,
        "hits": 0,
        "misses": 0,
        "hitTokens": 0,
        "secondsSaved": 0,
        "quarantined": 0,
        "corrupt": 0,
        "evicted": 0,
        "dropped": 0,
    }
    await hit(front)
    assert await reaches(front, records=1) == {
        "enabled": True,
        "off": "",
        "records": 1,
        "bytes": DISK_RECORD,
        "totalBytes": DISK_RECORD + 1,
        "capacity": CAPACITY,
        "writtenToday": DISK_RECORD,
        "hits": 1,
        "misses": 2,
        "hitTokens": 3,
        "secondsSaved": 0.5,
        "quarantined": 1,
        "corrupt": 1,
        "evicted": 1,
        "dropped": 1,
    }
    body = await cached(front)
    assert body["hitsBySource"] == {"memory": 1, "disk": 1}
    assert body["cachedTokensBySource"] == {"memory": 1, "disk": 3}
    for path in ("/cache", "/v1/cluster/cache"):
        assert (await front.ask(path)).json["disk"] == {
            "enabled": True,
            "off": "",
            "path": str(disk.folder),
            "totalBytes": DISK_RECORD + 1,
            "capacity": CAPACITY,
            "writtenToday": DISK_RECORD,
            "writesPerDay": 2 * CAPACITY,
        }
    entry = await front.model()
    assert entry["cache"]["disk"] == {"enabled": True, "off": "", "bytes": DISK_RECORD}
    assert (entry["metrics"]["cachedTokens"], entry["metrics"]["diskTokens"]) == (4, 3)


async def test_counts_of_disk_never_go_back_when_a_process_ends(
    serve: Serve, cache: CacheConfig
) -> None:
    front = await serve(*FROM_DISK, cache=cache)
    await hit(front)
    await reaches(front, hits=1)
    pid = (await front.model())["pid"]
    kill_worker(pid)

    async def restarted() -> bool:
        entry = await front.model()
        return bool(entry["state"] == "ready" and entry["pid"] != pid)

    await eventually(restarted)
    assert (await reaches(front, hits=1))["records"] == 1, "the disk outlives the process"
    await hit(front)
    assert await reaches(front, hits=2) | {"bytes": 0} == await reaches(
        front, hitTokens=6, secondsSaved=1.0, misses=4, corrupt=2, evicted=2, dropped=2
    ) | {"bytes": 0}
    await front.ask("/admin/models/m/unload", method="POST")
    await front.reaches(state="stopped")
    assert (await reaches(front, hits=2))["records"] == 1


async def test_cache_says_why_the_disk_is_not_used(serve: Serve, cache: CacheConfig) -> None:
    front = await serve(
        *FROM_DISK,
        "--disk-off",
        "no space left",
        models=(model("m"), model("n", disk_cache=False), model("o", ranks=2, preload=False)),
        cache=cache,
    )
    await front.chat("hello", model="m")
    await reaches(front, off="no space left", enabled=True)
    other = (await cached(front, "n"))["disk"]
    assert (other["enabled"], other["off"]) == (False, "disk_cache of the model is false")
    split = (await cached(front, "o"))["disk"]
    assert (split["enabled"], split["off"]) == (False, "several processes compute the model")
    assert (await front.model())["cache"]["disk"]["off"] == "no space left"
    text = (await front.ask("/metrics")).body.decode()
    assert 'mlx_worker_disk_cache_off{model="m"} 1.0' in text
    assert 'mlx_worker_disk_cache_off{model="n"} 0.0' in text
    assert 'mlx_worker_disk_cache_off{model="o"} 0.0' in text


async def test_cache_without_a_disk_says_so_and_is_no_failure(serve: Serve) -> None:
    front = await serve(cache=NO_DISK)
    body = (await front.ask("/cache")).json
    assert body["disk"]["path"] is None
    assert not body["models"]["m"]["disk"]["enabled"]
    assert body["models"]["m"]["disk"]["off"] == body["disk"]["off"] == "cache.disk is false"
    assert 'disk_cache_off{model="m"} 0.0' in (await front.ask("/metrics")).body.decode()
    assert (await front.ask("/cache/disk")).json == {
        "path": None,
        "off": "cache.disk is false",
        "stored": [],
    }


async def test_metrics_have_the_figures_of_the_disk(serve: Serve, cache: CacheConfig) -> None:
    front = await serve(*FROM_DISK, cache=cache)
    await hit(front)
    await reaches(front, records=1)
    text = (await front.ask("/metrics")).body.decode()
    for line in (
        'disk_cached_prompt_tokens_total{model="m"} 3.0',
        'cached_requests_total{model="m",source="memory"} 1.0',
        'cached_requests_total{model="m",source="disk"} 1.0',
        'disk_cache_hits_total{model="m"} 1.0',
        'disk_cache_misses_total{model="m"} 2.0',
        'disk_cache_seconds_saved_total{model="m"} 0.5',
        'disk_cache_corrupt_total{model="m"} 1.0',
        'disk_cache_evicted_segments_total{model="m"} 1.0',
        'disk_cache_dropped_total{model="m"} 1.0',
        'disk_cache_records{model="m"} 1.0',
        f'disk_cache_bytes{{model="m"}} {DISK_RECORD}.0',
        'disk_cache_quarantined{model="m"} 1.0',
        'disk_cache_off{model="m"} 0.0',
        f"disk_cache_folder_bytes {DISK_RECORD + 1}.0",
        "disk_cache_limit_bytes 1e+09",
        f"disk_cache_written_today_bytes {DISK_RECORD}.0",
    ):
        assert f"\nmlx_worker_{line}\n" in text, line


async def test_a_request_tells_its_tokens_from_disk_but_for_usage(
    serve: Serve, cache: CacheConfig, caplog: pytest.LogCaptureFixture
) -> None:
    front = await serve(*FROM_DISK, cache=cache)
    await front.ask("/cache/warm", {"system_prompt": PROMPT})
    with caplog.at_level("INFO"):
        answer = await front.chat("hello", system=PROMPT)
    assert answer.json["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    (row,) = (await front.ask("/admin/requests")).json["recent"]
    assert (row["cachedTokens"], row["diskTokens"]) == (4, 3)
    (line,) = [line for line in caplog.messages if line.startswith("request ")]
    assert "cached_tokens=4 disk_tokens=3 " in line


async def test_the_page_is_told_what_is_on_disk(serve: Serve, cache: CacheConfig) -> None:
    front = await serve(*FROM_DISK, cache=cache)
    await hit(front)
    disk = await reaches(front, records=1)
    stream = await soon(front.open("/admin/watch"))
    shown = (await next_report(stream))["models"]["m"]
    stream.close()
    assert shown["disk"] == disk
    assert (shown["diskTokens"], shown["memoryHits"], shown["diskHits"]) == (3, 1, 1)


# --- what is at rest --------------------------------------------------------------------


async def test_cache_disk_lists_also_what_no_model_has_loaded(
    serve: Serve, cache: CacheConfig, disk: Disk
) -> None:
    store(disk, IDENTITY, "gone")
    front = await serve(cache=cache)
    body = (await front.ask("/cache/disk")).json
    (stored,) = body["stored"]
    assert (body["path"], body["off"]) == (str(disk.folder), "")
    assert (stored["identity"], stored["models"]) == (IDENTITY.digest.hex(), ["gone"])
    assert (stored["records"], stored["tokens"]) == (1, 3)
    assert stored["bytes"] == disk.segments[0].stat().st_size
    assert stored["lastUsed"] == disk.time * 1000


async def test_clear_of_one_model_clears_its_disk_while_it_is_not_loaded(
    serve: Serve, cache: CacheConfig, disk: Disk
) -> None:
    store(disk, IDENTITY, "m")
    store(disk, OTHER, "other")
    front = await serve(models=(model("m", preload=False),), cache=cache)
    assert (await front.ask("/cache?model=m", method="DELETE")).json["cleared"] == ["m"]
    (left,) = (await front.ask("/cache/disk")).json["stored"]
    assert left["identity"] == OTHER.digest.hex()


async def test_clear_of_all_clears_memory_disk_and_what_no_model_has(
    serve: Serve, cache: CacheConfig, disk: Disk
) -> None:
    store(disk, IDENTITY, "gone")
    front = await serve(*FROM_DISK, cache=cache)
    await hit(front)
    await reaches(front, records=1)
    assert (await front.ask("/cache", method="DELETE")).status == 200
    assert (await front.ask("/cache/disk")).json["stored"] == []
    assert (await reaches(front, records=0))["hits"] == 1, "counts are not cleared"
    assert (await front.ask("/cache")).json["tokens"] == 0


async def test_clear_of_unloaded_model_is_reported_at_once(
    serve: Serve, cache: CacheConfig
) -> None:
    front = await serve(*FROM_DISK, cache=cache)
    await hit(front)
    await reaches(front, records=1)
    await front.ask("/admin/models/m/unload", method="POST")
    await front.reaches(state="stopped")
    await front.ask("/cache", method="DELETE")
    disk = (await cached(front))["disk"]
    assert (disk["records"], disk["bytes"], disk["hits"]) == (0, 0, 1)


async def test_clear_while_a_process_that_is_not_ready_has_the_disk_is_refused(
    serve: Serve, cache: CacheConfig, disk: Disk
) -> None:
    store(disk, IDENTITY, "m")
    front = await serve(models=(model("m", preload=False),), cache=cache)
    in_use = disk.open()
    answer = await front.ask("/cache?model=m", method="DELETE")
    assert (answer.status, answer.error["code"]) == (503, "model_loading")
    assert "Retry-After" in answer.headers
    in_use.close()
    assert (await front.ask("/cache?model=m", method="DELETE")).status == 200


async def test_clear_of_kv_that_another_model_has_open_names_that_model(
    serve: Serve, cache: CacheConfig, disk: Disk
) -> None:
    store(disk, IDENTITY, "a")
    store(disk, IDENTITY, "m")  # the same weights: one of the two processes has the KV open
    front = await serve(models=(model("m"), model("a")), cache=cache)
    await front.reaches("m", state="ready")
    await front.reaches("a", state="ready")
    in_use = disk.open()
    answer = await front.ask("/cache?model=m", method="DELETE")
    assert (answer.status, answer.error["code"]) == (503, "model_loading")
    assert "'a'" in answer.error["message"]
    assert (await front.ask("/cache", method="DELETE")).status == 200
    in_use.close()


async def test_clear_of_a_folder_that_fails_is_one_error(
    serve: Serve, cache: CacheConfig, disk: Disk
) -> None:
    front = await serve(models=(model("m", preload=False),), cache=cache)
    (disk.folder / "format").write_text("mlx-worker kv 99\n")
    for method in ("GET", "DELETE"):
        answer = await front.ask("/cache/disk" if method == "GET" else "/cache", method=method)
        assert answer.status == 500
        assert "is of another version ('mlx-worker kv 99')" in answer.error["message"]


# --- commands of a running node ---------------------------------------------------------


async def test_cache_commands_ask_the_node(serve: Serve, cache: CacheConfig, disk: Disk) -> None:
    store(disk, IDENTITY, "m")
    front = await serve(cache=cache)
    listed = await command("cache", "ls", "--json", "--url", front.url)
    assert json.loads(listed.said) == (await front.ask("/cache/disk")).json
    cleared = await command("cache", "clear", "m", "--url", front.url)
    assert (cleared.code, cleared.said) == (0, "cleared: m\n")
    assert (await command("cache", "ls", "--url", front.url)).said == f"nothing in {disk.folder}\n"


async def test_inspect_tells_of_the_disk(serve: Serve, cache: CacheConfig) -> None:
    front = await serve(*FROM_DISK, "--disk-off", "no space left", cache=cache)
    await hit(front)
    await reaches(front, records=1)
    said = " ".join((await command("inspect", "m", "--url", front.url)).said.split())
    assert "KV on disk off: no space left on disk 1 records, 1.0 KB" in said
    assert "cached requests 1 from memory, 1 from disk" in said


async def test_cache_ls_of_a_node_without_a_disk_says_why(serve: Serve) -> None:
    front = await serve(cache=NO_DISK)
    listed = await command("cache", "ls", "--url", front.url)
    assert listed.said == "no KV on disk: cache.disk is false\n"
