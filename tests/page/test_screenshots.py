"""The pictures in docs/images, of a node that had something to do: `tox -e screenshots`."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.page.page_object import Looking
from tests.processes import RunningNode, running_node
from tests.rounds import rounds

SECONDS = rounds(0, 0, 120)
"""Of traffic before the first picture."""

SHORT_PATHS = """() => {
  const why = document.querySelector("#models .why");
  const shorten = () => {
    const text = why.textContent.replace(/\\/\\S+\\/broken/, "/models/vision-12b");
    if (text !== why.textContent) why.textContent = text;
  };
  new MutationObserver(shorten).observe(why, { childList: true });
  shorten();
}"""
"""Shows a folder of the tests as if it were a reader's."""

IMAGES = Path(__file__).parents[2] / "docs" / "images"
LARGEST = 150_000

pytestmark = [
    pytest.mark.screenshots,
    pytest.mark.timeout(SECONDS + 240),
]


@pytest.fixture(scope="module")
def busy(nano: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with a little traffic; without a spare, so that a crash lasts long enough to see."""
    folder = tmp_path_factory.mktemp("busy")
    models = {"writer-7b": tiny, "coder-30b": nano}
    with running_node(folder, models) as node, traffic(node):
        node.wait_until_ready()
        threading.Event().wait(SECONDS)  # the charts are of this time
        yield node


class traffic:  # noqa: N801  (a context)
    """Chats of any length, a few at once, until its end."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(3)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        chance = random.Random(number)
        systems = ["You are brief.", "You are kind, and tell stories at length."]
        while not self._over.wait(chance.expovariate(1.0)):
            turns = [
                {"role": "system", "content": chance.choice(systems)},
                {"role": "user", "content": "tell me more " * chance.randrange(1, 60)},
            ]
            model = chance.choice(["writer-7b", "writer-7b", "coder-30b"])
            body = {"model": model, "messages": turns, "max_tokens": chance.randrange(20, 300)}
            self._node.ask("/v1/chat/completions", body)


def shoot(look: Looking, name: str, *, whole: bool = True, colours: int = 128) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    file = IMAGES / f"page-{name}.png"
    look.page.evaluate("scrollTo(0, 0)")
    taken = look.page.screenshot(full_page=whole, scale="css", animations="disabled")
    with Image.open(BytesIO(taken)) as image:  # few colours are enough, and a third of the bytes
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(file, optimize=True)
    assert file.stat().st_size < LARGEST, f"{file} is too large for a repository"


def test_desktop(browser: Browser, busy: RunningNode) -> None:
    with browser.new_context(viewport={"width": 1240, "height": 900}) as context:
        look = Looking(context.new_page(), busy)
        look.open()
        expect(look.page.locator("#legend button")).to_have_count(2)
        look.fold("coder-30b").click()
        chat(look, "Tell me a story")
        shoot(look, "desktop", colours=64)


def test_dark(browser: Browser, busy: RunningNode) -> None:
    viewport = {"width": 1240, "height": 900}
    with browser.new_context(viewport=viewport, color_scheme="dark") as context:
        look = Looking(context.new_page(), busy)
        look.open()
        chat(look, "Tell me another one")
        shoot(look, "dark", whole=False)


@pytest.mark.parametrize(("name", "scheme"), [("phone", "light"), ("phone-dark", "dark")])
def test_phone(browser: Browser, busy: RunningNode, name: str, scheme: Any) -> None:
    viewport: Any = {"width": 390, "height": 1400}
    with browser.new_context(
        viewport=viewport, is_mobile=True, has_touch=True, color_scheme=scheme
    ) as context:
        look = Looking(context.new_page(), busy)
        look.open()
        speed = look.card("writer-7b").locator("td.number").first
        expect(speed).not_to_have_text("\N{EN DASH}")
        shoot(look, name, whole=False)


def test_crash(browser: Browser, busy: RunningNode) -> None:
    with browser.new_context(viewport={"width": 1240, "height": 900}) as context:
        look = Looking(context.new_page(), busy)
        look.open()
        pid = busy.model("writer-7b")["pid"]
        os.kill(pid, signal.SIGKILL)
        expect(look.badge("writer-7b")).to_have_text("starting")
        shoot(look, "crash", whole=False)


def test_ten_models(browser: Browser, crowd: RunningNode) -> None:
    with browser.new_context(viewport={"width": 1240, "height": 640}) as context:
        look = Looking(context.new_page(), crowd)
        look.open()
        expect(look.page.locator("#models .fold")).to_have_count(10)
        look.page.evaluate(SHORT_PATHS)
        shoot(look, "models", whole=False)


def chat(look: Looking, text: str) -> None:
    look.page.fill("#message", text)
    look.page.fill("#max-tokens", "120")
    look.page.click("#send")
    expect(look.page.locator("#measures")).to_contain_text("+ 120")
