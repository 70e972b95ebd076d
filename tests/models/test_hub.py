"""A snapshot from a hub: only what a model needs, whole, and with a clear word when not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlx_worker.errors import BrokenDownload, SourceUnavailable
from mlx_worker.models.pull.hub import fetch_repository, is_wanted
from mlx_worker.models.pull.lock import pull_lock
from mlx_worker.models.pull.progress import no_progress
from mlx_worker.models.pull.sources import HubSource
from tests.models.fake_hub import COMMIT, REPO, FakeHub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mlx_worker.models.pull.progress import Progress


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
async def hub(
    whole_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FakeHub]:
    """A hub with a whole model and with things that nobody should take."""
    hub = FakeHub(contents(whole_folder) | {"modeling.py": b"evil", "pytorch_model.bin": b"evil"})
    async with hub.running() as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield hub


async def fetch(
    folder: Path, source: HubSource | None = None, on_progress: Progress = no_progress
) -> str:
    with pull_lock(folder.parent, "model") as lock:
        return await fetch_repository(source or HubSource(REPO), folder, lock, on_progress)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "download"
    made.mkdir()
    return made


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("config.json", True),
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("tokenizer.model", True),
        ("chat_template.jinja", True),
        ("merges.txt", True),
        ("spiece.model", True),
        ("tiktoken.model", True),
        ("source.spm", True),
        ("additional_chat_templates/tool_use.jinja", True),
        ("additional_chat_templates/deep/tool_use.jinja", False),
        ("onnx/chat_template.jinja", False),
        ("modeling_llama.py", False),
        ("pytorch_model.bin", False),
        ("training_args.pt", False),
        ("consolidated.safetensors", False),
        ("onnx/config.json", False),
        ("README.md", False),
    ],
)
def test_only_data_that_a_model_needs_is_wanted(name: str, wanted: bool) -> None:
    assert is_wanted(name) is wanted


async def test_a_repository_arrives_without_its_code(
    hub: FakeHub, folder: Path, whole_folder: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    commit = await fetch(folder, on_progress=lambda done, total: seen.append((done, total)))
    assert commit == COMMIT
    assert names_in(folder) == names_in(whole_folder)
    assert {"modeling.py", "pytorch_model.bin"}.isdisjoint(hub.downloaded)
    total = sum(len(content) for name, content in hub.files.items() if is_wanted(name))
    assert seen[-1] == (total, total)


async def test_progress_is_told_while_it_goes_on(hub: FakeHub, folder: Path) -> None:
    """The hub sends the rest only when somebody has heard of the first half."""
    hub.released.clear()
    await fetch(folder, on_progress=lambda *_: hub.released.set())
    assert "model.safetensors" in names_in(folder)


async def test_a_revision_is_asked_for_by_name(hub: FakeHub, folder: Path) -> None:
    assert await fetch(folder, HubSource(REPO, "main")) == COMMIT
    with pytest.raises(SourceUnavailable, match=r"Tiny-Llama has no revision v9$"):
        await fetch(folder, HubSource(REPO, "v9"))


async def test_an_unknown_repository_is_said_so(hub: FakeHub, folder: Path) -> None:
    with pytest.raises(SourceUnavailable, match="hf:no/body does not exist, or is private"):
        await fetch(folder, HubSource("no/body"))


async def test_a_gated_repository_is_said_so(hub: FakeHub, folder: Path) -> None:
    hub.gated = True
    with pytest.raises(SourceUnavailable, match="is gated: accept its licence"):
        await fetch(folder)


async def test_a_repository_without_safetensors_is_not_begun(hub: FakeHub, folder: Path) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(SourceUnavailable, match=r"has no model\*\.safetensors"):
        await fetch(folder)
    assert hub.downloaded == []


async def test_bytes_that_are_not_the_hubs_are_deleted(hub: FakeHub, folder: Path) -> None:
    hub.lfs_sha256 = "0" * 64
    with pytest.raises(BrokenDownload, match=f"model.safetensors has .* instead of {'0' * 64}"):
        await fetch(folder)
    assert "model.safetensors" not in names_in(folder)


async def test_a_hub_out_of_reach_is_said_so(
    nobody_listens: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", nobody_listens)
    with pytest.raises(SourceUnavailable, match=f"cannot download hf:{REPO}: "):
        await fetch(folder)
