"""The page in a real browser: headless Chromium, in front of a real node with two real models."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.page.page_object import DEADLINE, Looking
from tests.processes import RunningNode, eventually, running_node

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
SERVER = 'host_names = ["node.test"]'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not longer than a module: playwright's loop would run beneath all other tests."""
    if BROWSER is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    expect.set_options(timeout=DEADLINE)
    with sync_playwright() as playwright:
        # A container's own sandbox leaves none to Chromium; only our own node is looked at.
        names = "--host-resolver-rules=MAP *.test 127.0.0.1"
        running = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", names, "--disable-dev-shm-usage"]
        )
        yield running
        running.close()


@pytest.fixture(scope="module")
def node(nano: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """Tests share it, and leave its models as they were: loaded."""
    folder = tmp_path_factory.mktemp("page")
    with running_node(folder, {"nano": nano, "tiny": tiny}, server=SERVER) as running:
        running.wait_until_ready()
        yield running


SIZES = (1, 3, 4, 8, 14, 32, 70, 120)
CROWD = [
    "vision-12b",
    "writer-7b",
    *(f"local/assistant-{size}b-instruct-long-context-4bit" for size in SIZES),
]
"""Ten models; the first loads nothing but garbage, the second serves, and the others rest."""


@pytest.fixture(scope="module")
def crowd(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with a failed model, a ready one, and eight that are stopped."""
    folder = tmp_path_factory.mktemp("crowd")
    broken = Path(shutil.copytree(nano, folder / "broken"))
    models = dict.fromkeys(CROWD, nano) | {"vision-12b": broken}
    resting = dict.fromkeys(CROWD, "preload = false") | {"writer-7b": ""}
    with running_node(folder, models, extra=resting) as running:
        (broken / "model.safetensors").write_bytes(b"no tensors")
        running.ask("/admin/models/vision-12b/load", method="POST")
        eventually(lambda: running.model("vision-12b")["state"] == "failed")
        eventually(lambda: running.model("writer-7b")["state"] == "ready")
        yield running


@pytest.fixture
def look(browser: Browser, node: RunningNode) -> Iterator[Looking]:
    """The page, open and live; whatever its console complains of fails the test."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        looking = Looking(page, node)
        looking.open()
        yield looking
        assert looking.complaints == []


@pytest.fixture
def page(look: Looking) -> Page:
    return look.page
