"""A node with API keys: the page asks for one, and keeps it to itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.page.page_object import Looking
from tests.processes import RunningNode, running_node

pytestmark = pytest.mark.browser


KEY = "a-key-of-the-node-0123456789"


@pytest.fixture(scope="module")
def guarded(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys"
    keys.touch(mode=0o600)
    keys.write_text(f"operator:{KEY}\n")
    with running_node(folder, {"nano": nano}, server=f'api_keys_file = "{keys}"') as running:
        yield running


def test_a_wrong_key_is_said_to_be_wrong_and_the_right_one_opens(
    browser: Browser, guarded: RunningNode
) -> None:
    with browser.new_context() as context:
        look = Looking(page := context.new_page(), guarded)
        asked: list[str] = []
        page.on("request", lambda item: asked.append(item.url))
        page.goto(guarded.url + "/")
        expect(page.locator("#key-problem")).to_have_text("This node requires an API key.")
        page.fill("#key", "not-the-key")
        page.keyboard.press("Enter")
        expect(page.locator("#key-problem")).to_have_text("This node does not accept this API key.")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        expect(look.badge("nano")).to_have_text("ready")
        expect(page.locator("#log")).to_contain_text("listening")
        look.press("nano", "Restart", sure="Restart")
        expect(page.locator("#toasts")).to_contain_text("is being restarted")
        page.reload()
        expect(look.badge("nano")).to_have_text("ready")
        assert not any(KEY in url for url in asked)
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.click("#key-button")
        page.click("#key-forget")
        page.reload()
        expect(page.locator("#key-problem")).to_have_text("This node requires an API key.")
        assert look.complaints == []


def test_a_node_with_keys_may_be_called_by_any_name(browser: Browser, guarded: RunningNode) -> None:
    with browser.new_context() as context:
        look = Looking(page := context.new_page(), guarded)
        page.goto(guarded.url.replace("127.0.0.1", "any.test"))
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        expect(look.badge("nano")).to_have_text("ready")
