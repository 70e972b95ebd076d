"""The table of requests: what runs and what ended, filtered, and cancelled by a person."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.page.page_object import Looking
from tests.processes import Answer, RunningNode

pytestmark = pytest.mark.browser

SECRET = "words that no operator should read"


class LongRequest:
    """A request that runs in a thread until the node ends the answer."""

    def __init__(self, node: RunningNode) -> None:
        self.answer: Answer | None = None
        self._thread = threading.Thread(target=self._ask, args=(node,))
        self._thread.start()

    def _ask(self, node: RunningNode) -> None:
        turns = [{"role": "user", "content": SECRET}]
        body: dict[str, Any] = {"model": "tiny", "messages": turns, "max_tokens": 7000}
        self.answer = node.ask("/v1/chat/completions", body)

    def wait(self) -> None:
        self._thread.join()


@pytest.fixture
def request_row(look: Looking) -> Iterator[Locator]:
    """The row of a request that runs."""
    running = LongRequest(look.node)
    row = look.page.locator("#requests tr", has_text="tiny").filter(has_text="generating")
    yield row.first
    running.wait()


def test_cancel_ends_a_request_and_keeps_the_focus(look: Looking, request_row: Locator) -> None:
    page = look.page
    expect(request_row).to_be_visible()
    id_ = request_row.get_attribute("data-request")
    cancel = page.locator(f'[data-request="{id_}"] button')
    cancel.focus()
    page.keyboard.press("Enter")
    expect(page.locator(f'[data-request="{id_}"] .badge')).to_have_text("cancelled")
    expect(page.locator("#toasts")).to_contain_text("is cancelled")
    expect(cancel).to_be_focused()
    assert look.violations() == []
    assert SECRET not in (page.content())


def test_filters_choose_requests(look: Looking) -> None:
    page = look.page
    body = {"model": "nano", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    look.node.ask("/v1/chat/completions", body)
    row = page.locator("#requests tr", has_text="nano").filter(has_text="finished").first
    expect(row).to_be_visible()
    expect(row).to_contain_text("3")
    page.fill("#requests-filter", "no such request")
    expect(page.locator("#requests tr")).to_have_count(0)
    expect(page.locator("#no-requests")).to_have_text("No request fits the filter.")
    page.fill("#requests-filter", "nano")
    expect(row).to_be_visible()
    page.select_option("#requests-of", "live")
    expect(page.locator("#requests tr")).to_have_count(0)
