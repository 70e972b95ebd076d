"""The page by keyboard and by ear: focus stays, states name their model, nothing is said twice."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.page_object import Looking
from tests.processes import RunningNode, eventually

pytestmark = pytest.mark.browser

SAID = """() => {
  window.said = [];
  new MutationObserver((changes) => {
    const added = changes.flatMap((change) => [...change.addedNodes]);
    window.said.push(...added.map((node) => node.textContent));
  }).observe(document.getElementById("announcer"), { childList: true });
}"""

MISSED = """() => {
  const wanted = "a, button, input, select, textarea, summary, [tabindex='0']";
  return [...document.querySelectorAll(wanted)]
    .filter((element) => element.checkVisibility({ visibilityProperty: true }))
    .filter((element) => !element.closest("dialog") && !window.reached.has(element))
    .map((element) => element.outerHTML);
}"""
"""Evaluates to what can be used, but was not among the elements that were reached."""


def test_focus_stays_on_unload_and_load(look: Looking) -> None:
    page = look.page
    page.evaluate(SAID)
    unload = page.get_by_role("button", name="Unload nano", exact=True)
    unload.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(look.badge("nano")).to_have_text("stopped")
    expect(unload).to_be_focused()
    load = page.get_by_role("button", name="Load nano", exact=True)
    load.focus()
    page.keyboard.press("Enter")
    expect(look.badge("nano")).to_have_text("ready")
    expect(load).to_be_focused()
    expect(load).to_have_attribute("aria-disabled", "true")
    said = page.evaluate("window.said")
    assert [text for text in said if "nano" in text] == ["nano: stopped", "nano: ready"]


def test_tab_key_reaches_everything(look: Looking) -> None:
    page = look.page
    page.evaluate("window.reached = new Set(); document.activeElement.blur()")
    for _ in range(len(page.evaluate(MISSED)) + 5):
        page.keyboard.press("Tab")
        page.evaluate("window.reached.add(document.activeElement)")
    assert page.evaluate(MISSED) == []


def test_lines_of_a_crash_are_read_by_keyboard(look: Looking) -> None:
    page = look.page
    page.evaluate(
        """async () => {
          const { Events } = await import("./page/views/events.js");
          const list = new Events();
          const facts = { cause: "killed", pid: 1, in_flight: [], lines: Array(99).fill("a line") };
          list.add({ id: 1, at: Date.now(), kind: "crash", model: "nano", facts });
        }"""
    )
    summary = page.locator("#events summary").first
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    lines = page.locator("#events pre").first
    expect(lines).to_be_focused()
    page.keyboard.press("End")
    eventually(lambda: lines.evaluate("(element) => element.scrollTop") > 0)


def test_playground_is_quiet_while_it_streams(look: Looking) -> None:
    page = look.page
    page.evaluate(SAID)
    live = page.locator("#measures, #transcript, #measures *, #transcript *")
    page.fill("#max-tokens", "60")
    page.fill("#message", "hello")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#measures")).to_contain_text("+ 60")
    spoken = (
        "(all) => all.filter((element) => element.ariaLive && element.ariaLive !== 'off').length"
    )
    assert live.evaluate_all(spoken) == 0
    assert page.evaluate("window.said.join()").startswith("The answer of ")


def test_reader_of_an_answer_is_not_pulled_down(look: Looking) -> None:
    page = look.page
    page.select_option("#playground-model", "tiny")
    page.fill("#max-tokens", "6000")
    page.fill("#message", "tell me everything")
    page.click("#send")
    transcript = page.locator("#transcript")
    eventually(
        lambda: transcript.evaluate("(element) => element.scrollTop") > 100
    )  # at first, to the end
    transcript.evaluate("(element) => { element.scrollTop = 0; }")
    before = len(transcript.text_content() or "")
    eventually(lambda: len(transcript.text_content() or "") > before + 200)
    assert transcript.evaluate("(element) => element.scrollTop") == 0
    page.click("#stop")


def test_warm_refuses_an_empty_prompt(look: Looking) -> None:
    page = look.page
    asked: list[str] = []
    page.on("request", lambda item: asked.append(item.url))
    look.press("tiny", "Warm…")
    page.fill("#ask-prompt", "  \n ")
    page.click("#ask-yes")
    expect(page.locator("#ask-problem")).to_contain_text("The prompt is empty")
    expect(page.locator("#ask-prompt")).to_be_focused()
    assert not any("warm" in url for url in asked)


def test_failed_model_says_what_comes_next(browser: Browser, crowd: RunningNode) -> None:
    with browser.new_context() as context:
        look = Looking(context.new_page(), crowd)
        look.open()
        why = look.card("vision-12b").locator(".why")
        expect(why).to_have_text(re.compile("^given up.*Load tries again at once"))
        expect(why).to_have_text(re.compile(r"next try at \d\d:\d\d:\d\d"))
        expect(look.card("vision-12b").locator(".buttons")).to_be_hidden()
        load = look.page.get_by_role("button", name="Load vision-12b", exact=True)
        load.click()
        expect(look.page.locator("#toasts")).to_contain_text("vision-12b is being loaded")


def test_badges_are_no_live_regions(page: Page) -> None:
    spoken = (
        "(all) => all.filter((element) => element.closest('[role=status], [aria-live]')).length"
    )
    assert page.locator(".badge, .link, .amount").evaluate_all(spoken) == 0
