"""What an operator presses is done."""

import pytest
from playwright.sync_api import expect

from tests.page.page_object import Looking

pytestmark = pytest.mark.browser


def test_unload_and_load(look: Looking) -> None:
    look.press("nano", "Unload", sure="Unload")
    expect(look.badge("nano")).to_have_text("stopped")
    expect(look.figure("nano", "pid")).to_have_text("\N{EN DASH}")
    look.press("nano", "Load")
    expect(look.badge("nano")).to_have_text("ready")
    assert look.node.model("nano")["state"] == "ready"


def test_restart_gives_a_new_process(look: Looking) -> None:
    before = look.node.model("nano")["pid"]
    look.press("nano", "Restart", sure="Restart")
    expect(look.page.locator("#toasts")).to_contain_text("nano is being restarted")
    expect(look.figure("nano", "pid")).not_to_have_text(str(before))
    expect(look.badge("nano")).to_have_text("ready")


def test_warm_and_clear(look: Looking) -> None:
    look.page.get_by_role("button", name="Warm… tiny").click()
    look.page.fill("#ask-prompt", "You are brief, and kind to all who ask.")
    look.page.click("#ask-yes")
    expect(look.page.locator("#toasts")).to_contain_text("tiny keeps")
    warmed = look.node.ask("/cache?model=tiny").json
    assert warmed["warmed"] == 1
    expect(look.page.locator("#toasts")).to_contain_text(f"tiny keeps {warmed['tokens']} tokens")
    expect(look.card("tiny").locator(".bars")).to_contain_text("1 warmed")
    look.press("tiny", "Clear", sure="Clear")
    expect(look.card("tiny").locator(".bars")).to_contain_text("0 warmed")
    assert look.node.ask("/cache?model=tiny").json["warmed"] == 0


def test_what_is_left_is_not_done(look: Looking) -> None:
    before = look.node.model("nano")["pid"]
    look.press("nano", "Restart")
    look.page.keyboard.press("Escape")
    look.press("nano", "Restart")
    look.page.click("#ask-no")
    expect(look.page.locator("#ask-dialog")).to_be_hidden()
    assert look.node.model("nano")["pid"] == before


def test_a_keyboard_reaches_and_presses_them(look: Looking) -> None:
    button = look.page.get_by_role("button", name="Restart nano", exact=True)
    button.focus()
    look.page.keyboard.press("Enter")
    expect(look.page.locator("#ask-title")).to_have_text("Restart nano?")
    look.page.keyboard.press("Escape")
    expect(button).to_be_focused()
