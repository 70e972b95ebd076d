"""What a person typed and read: kept over a reload and over a restart of the node."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.page.page_object import Looking
from tests.processes import running_node

pytestmark = pytest.mark.browser

FIELDS = {"#max-tokens": "7", "#temperature": "0.5", "#seed": "11", "#message": "half a thought"}


def fill(look: Looking) -> None:
    """Have an answer, and type the next message."""
    page = look.page
    page.select_option("#playground-model", "tiny")
    page.fill("#max-tokens", "7")
    page.fill("#message", "hello there")
    page.click("#send")
    expect(page.locator("#measures")).to_contain_text("+ 7")
    for field, text in FIELDS.items():
        page.fill(field, text)


def assert_kept(look: Looking, answer: str) -> None:
    page = look.page
    expect(page.locator("#transcript .turn")).to_have_count(2)
    expect(page.locator("#transcript")).to_contain_text("hello there")
    assert answer in (page.locator("#transcript").text_content() or "")
    for field, text in FIELDS.items():
        expect(page.locator(field)).to_have_value(text)
    expect(page.locator("#playground-model")).to_have_value("tiny")


def test_reload_keeps_conversation_and_fields(look: Looking) -> None:
    fill(look)
    answer = look.page.locator("#transcript .turn").nth(1).inner_text()
    look.page.reload()
    expect(look.page.locator("#link")).to_have_text("live")
    assert_kept(look, answer.partition("\n")[2])
    # The conversation goes on: the model gets the earlier turns too.
    with look.page.expect_request("**/v1/chat/completions") as sent:
        look.page.click("#send")
    body = json.loads(sent.value.post_data or "")
    roles = [turn["role"] for turn in body["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_restart_of_the_node_keeps_conversation_and_fields(
    browser: Browser, nano: Path, tiny: Path, tmp_path: Path
) -> None:
    models = {"nano": nano, "tiny": tiny}
    with browser.new_context() as context:
        page = context.new_page()
        with running_node(tmp_path, models) as node:
            node.wait_until_ready()
            look = Looking(page, node)
            look.open()
            fill(look)
            answer = page.locator("#transcript .turn").nth(1).inner_text()
            page.locator("#message").focus()
        expect(page.locator("#link")).to_have_text("no answer")
        port = int(node.url.rpartition(":")[2])
        with running_node(tmp_path, models, port=port) as node:
            node.wait_until_ready()
            expect(page.locator("#link")).to_have_text("live")
            expect(look.badge("tiny")).to_have_text("ready")
            assert_kept(look, answer.partition("\n")[2])
            expect(page.locator("#message")).to_be_focused()
            expect(page.locator("#events li", has_text="tiny")).not_to_have_count(0)


def test_opened_model_and_filters_stay_as_they_were(look: Looking) -> None:
    page = look.page
    look.fold("nano").click()
    page.fill("#events-filter", "loading")
    page.select_option("#log-of", "nano")
    page.reload()
    expect(page.locator("#link")).to_have_text("live")
    expect(look.fold("nano")).to_have_attribute("aria-expanded", "false")
    expect(page.locator("#events-filter")).to_have_value("loading")
    expect(page.locator("#log-of")).to_have_value("nano")
    expect(page.locator("#events li:visible", has_text="starting → loading")).not_to_have_count(0)
    expect(page.locator("#events li:visible", has_text="stopped → starting")).to_have_count(0)
