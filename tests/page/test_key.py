"""A node with API keys: the page asks for one, and keeps it to itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.page.page_object import DEADLINE, Looking
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


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as opened:
        opened.set_default_timeout(DEADLINE)
        yield opened


def enter_key(page: Page, url: str) -> None:
    page.goto(url + "/")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#link")).to_have_text("live")


def test_dialog_closed_by_escape_stays_closed(
    context: BrowserContext, guarded: RunningNode
) -> None:
    look = Looking(page := context.new_page(), guarded)
    page.goto(guarded.url + "/")
    expect(page.locator("#key-dialog")).to_be_visible()
    assert look.violations() == []
    page.keyboard.press("Escape")
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(page.locator("#link")).to_have_text("API key needed")
    expect(page.locator("#notice")).to_contain_text("Enter one with the button")
    page.evaluate("() => new Promise((done) => setTimeout(done, 600))")  # longer than any retry
    expect(page.locator("#key-dialog")).to_be_hidden()
    assert look.violations() == []
    page.click("#key-button")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#link")).to_have_text("live")


def test_owner_of_the_key_is_named(context: BrowserContext, guarded: RunningNode) -> None:
    page = context.new_page()
    enter_key(page, guarded.url)
    expect(page.locator("#key-button")).to_have_text("API key: operator")
    page.click("#key-button")
    expect(page.locator("#key-owner")).to_have_text("In use: the key of “operator”.")
    page.keyboard.press("Escape")
    expect(page.locator("#connect-text")).to_contain_text("$MLX_WORKER_API_KEY")
    assert KEY not in page.content()


def test_second_tab_uses_the_key_of_the_first(
    context: BrowserContext, guarded: RunningNode
) -> None:
    first, second = context.new_page(), context.new_page()
    enter_key(first, guarded.url)
    second.goto(guarded.url + "/")
    expect(second.locator("#link")).to_have_text("live")
    expect(second.locator("#key-dialog")).to_be_hidden()
    second.click("#key-button")
    second.click("#key-forget")
    for page in (first, second):
        page.reload()
        expect(page.locator("#link")).to_have_text("API key needed")


def test_waiting_tab_goes_on_with_a_key_entered_elsewhere(
    context: BrowserContext, guarded: RunningNode
) -> None:
    waiting, other = context.new_page(), context.new_page()
    waiting.goto(guarded.url + "/")
    expect(waiting.locator("#key-dialog")).to_be_visible()
    enter_key(other, guarded.url)
    expect(waiting.locator("#link")).to_have_text("live")
    expect(waiting.locator("#key-dialog")).to_be_hidden()


def test_refused_key_is_given_to_no_other_tab(
    context: BrowserContext, guarded: RunningNode
) -> None:
    wrong, other = context.new_page(), context.new_page()
    wrong.goto(guarded.url + "/")
    wrong.fill("#key", "not-the-key")
    wrong.keyboard.press("Enter")
    expect(wrong.locator("#key-problem")).to_have_text("This node does not accept this API key.")
    other.goto(guarded.url + "/")
    expect(other.locator("#key-problem")).to_have_text("This node requires an API key.")
