"""Several windows of one browser: one stream each, and connections left for requests."""

import pytest
from playwright.sync_api import Browser, expect

from tests.page.page_object import Looking
from tests.processes import RunningNode

pytestmark = pytest.mark.browser

WINDOWS = 4


def test_four_windows_are_live_and_can_act(browser: Browser, node: RunningNode) -> None:
    with browser.new_context() as context:
        looks = [Looking(context.new_page(), node) for _ in range(WINDOWS)]
        for look in looks:
            look.open()
            expect(look.page.locator("#log")).to_contain_text("ready")
        for look in looks:  # pages of a headless browser are all visible: each has its stream
            assert not look.page.evaluate("document.hidden")
            look.page.fill("#message", "hello")
            look.page.fill("#max-tokens", "5")
            look.page.click("#send")
            expect(look.page.locator("#measures")).to_contain_text("+ 5")
            expect(look.page.locator("#link")).to_have_text("live")


def test_window_has_one_stream_of_the_node(look: Looking) -> None:
    page = look.page
    streams: list[str] = []
    page.on("request", lambda item: streams.append(item.url.partition("/admin/")[2]))
    page.reload()
    expect(page.locator("#log")).to_contain_text("ready")
    expect(page.locator("#events li")).not_to_have_count(0)
    open_ended = [url for url in streams if url.startswith(("watch", "logs", "events"))]
    assert len(open_ended) == 1, open_ended
