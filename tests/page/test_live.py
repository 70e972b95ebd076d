"""The page shows what happens when it happens."""

import os
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.page.page_object import Looking
from tests.processes import running_node

RECORD = """model => {
  const badge = document.querySelector(`[data-model="${model}"] .badge`);
  window.said = [badge.textContent];
  new MutationObserver(() => window.said.push(badge.textContent))
    .observe(badge, { childList: true, characterData: true, subtree: true });
}"""


@pytest.mark.browser
def test_it_shows_what_health_says(look: Looking) -> None:
    health = look.node.ask("/health").json
    expect(look.page.locator("#status")).to_have_text("healthy")
    for name in ("nano", "tiny"):
        expect(look.badge(name)).to_have_text("ready")
        expect(look.figure(name, "pid")).to_have_text(str(health["models"][name]["pid"]))
        expect(look.figure(name, "running")).to_have_text("0/32")
    assert look.page.title() == "healthy · mlx-worker"


@pytest.mark.browser
def test_states_change_live_while_a_child_is_killed(look: Looking) -> None:
    before = look.node.model("tiny")
    look.page.evaluate(RECORD, "tiny")
    os.kill(before["pid"], signal.SIGKILL)
    restarts = look.figure("tiny", "restarts")
    expect(restarts).to_have_text(str(before["restarts"] + 1))
    expect(look.badge("tiny")).to_have_text("ready")
    said = look.page.evaluate("window.said")
    assert said[0] == said[-1] == "ready"
    assert set(said) & {"killing", "backoff", "starting", "loading"}, said
    expect(look.figure("tiny", "pid")).to_have_text(str(look.node.model("tiny")["pid"]))
    expect(look.card("tiny").locator(".crashes li").first).to_contain_text("SIGKILL")
    crash = look.page.locator("#events li", has_text=f"(pid {before['pid']})")
    expect(crash).to_have_attribute("data-mood", "bad")
    expect(look.badge("nano")).to_have_text("ready")


@pytest.mark.browser
def test_a_stream_that_outlives_a_crash_is_one_answer_on_the_page(look: Looking) -> None:
    page, before = look.page, look.node.model("tiny")
    page.select_option("#playground-model", "tiny")
    page.fill("#max-tokens", "600")
    page.fill("#message", "tell me everything")
    page.click("#send")
    expect(measure(page, "first token")).not_to_have_text("\N{EN DASH}")
    os.kill(before["pid"], signal.SIGKILL)
    expect(look.figure("tiny", "restarts")).to_have_text(str(before["restarts"] + 1))
    expect(page.locator("#send")).to_be_enabled()
    expect(measure(page, "tokens")).to_contain_text("+ 600")
    expect(measure(page, "ended by")).to_have_text("length")


@pytest.mark.browser
def test_the_log_of_a_model_is_its_process_s(look: Looking) -> None:
    expect(look.page.locator("#log")).to_contain_text("ready")
    look.page.select_option("#log-of", "nano")
    expect(look.page.locator("#log")).not_to_contain_text("listening on")


@pytest.mark.browser
def test_playground_streams_and_says_what_it_took(look: Looking) -> None:
    page = look.page
    page.select_option("#playground-model", "tiny")
    page.fill("#max-tokens", "40")
    page.fill("#seed", "7")
    page.fill("#temperature", "0")
    page.fill("#message", "hello there")
    page.keyboard.press("Control+Enter")
    expect(measure(page, "tokens")).to_contain_text("+ 40")
    said = page.locator("#transcript .turn").nth(1).locator("span").first.text_content()
    asked = {"model": "tiny", "max_tokens": 40, "seed": 7, "temperature": 0}
    turns = [{"role": "user", "content": "hello there"}]
    answer = look.node.ask("/v1/chat/completions", asked | {"messages": turns}).json
    assert said == answer["choices"][0]["message"]["content"]
    expect(measure(page, "seed")).to_have_text("7")
    expect(measure(page, "prompt tokens cached")).to_contain_text("of")
    assert (measure(page, "first token").text_content() or "").endswith("s")
    assert float((measure(page, "tokens/s").text_content() or "").replace(",", "")) > 0


@pytest.mark.browser
def test_a_refused_chat_says_why(look: Looking) -> None:
    look.page.fill("#message", "hello " * 20_000)
    look.page.click("#send")
    expect(look.page.locator("#transcript .problem")).to_contain_text("context")


@pytest.mark.browser
def test_a_chart_has_a_line_a_model_and_says_its_figures(look: Looking) -> None:
    page = look.page
    expect(page.locator("#charts .chart")).to_have_count(4)
    expect(page.locator("#legend > button")).to_have_text(["1nano", "2tiny"])
    plot = page.get_by_role("slider", name="Tokens per second")
    expect(plot).to_have_attribute("aria-valuetext", re.compile(r"nano [\d.]+ tokens/s; tiny "))


@pytest.mark.browser
def test_a_node_that_goes_is_missed(browser: Browser, nano: Path, tmp_path: Path) -> None:
    with browser.new_context() as context, running_node(tmp_path, {"nano": nano}) as node:
        look = Looking(context.new_page(), node)
        look.open()
        node.stop()
        expect(look.page.locator("#link")).to_have_text("no answer")
        expect(look.page.locator("#notice")).to_contain_text("The node cannot be reached.")
        expect(look.page.locator("#status")).to_have_attribute("data-mood", "rest")


def measure(page: Page, term: str) -> Locator:
    """The figure under that term in the playground."""
    return page.locator(f"#measures div:has(dt:text-is('{term}')) dd")


@pytest.mark.browser
def test_cached_prompt_tokens_and_percentiles_are_shown(look: Looking) -> None:
    page = look.page
    turns = [{"role": "user", "content": "one two three " * 30}]
    for _ in range(3):
        look.node.ask("/v1/chat/completions", {"model": "nano", "messages": turns, "max_tokens": 9})
    tile = page.locator("#tiles div:has(dt:text-is('prompt cached')) dd")
    metrics = look.node.model("nano")["metrics"]
    share = metrics["cachedTokens"] / metrics["promptTokens"]
    assert share > 0.3
    expect(look.figure("nano", "prompt cached")).to_have_text(f"{share * 100:.0f} %")
    expect(tile).to_have_text(re.compile(r"^\d+ %$"))
    expect(look.figure("nano", "system prompts hit")).to_be_visible()
    latency = look.card("nano").locator(".latency tbody tr")
    expect(latency).to_have_count(3)
    for row in latency.all():
        expect(row.locator("td").first).to_have_text(re.compile(r"^[\d.]+ m?s$"))


@pytest.mark.browser
def test_kv_on_disk_is_shown_with_why_it_is_off(look: Looking) -> None:
    card = look.card("nano")
    expect(card.locator(".bars .note")).to_have_text("KV on disk is off: cache.disk is false")
    expect(card.get_by_role("meter", name="KV on disk")).to_have_attribute("aria-valuetext", "off")
    expect(look.figure("nano", "prompt from disk")).to_have_text(re.compile(r"^(0 %|\u2013)$"))
    expect(look.figure("nano", "from memory, disk")).to_have_text(re.compile(r"^\d+, 0$"))
    expect(look.figure("nano", "prefill saved")).to_have_text("\u2013")


@pytest.mark.browser
def test_configuration_and_snippets_are_shown(look: Looking) -> None:
    page = look.page
    page.locator("#settings summary").click()
    expect(page.locator("#settings-text")).to_contain_text("max_concurrency")
    page.select_option("#connect-client", "Anthropic, Python")
    page.select_option("#connect-model", "tiny")
    expect(page.locator("#connect-text")).to_contain_text(f'base_url="{look.node.url}"')
    expect(page.locator("#connect-text")).to_contain_text('model="tiny"')
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#connect-copy")
    expect(page.locator("#toasts")).to_have_text("The snippet is in the clipboard")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#connect-text").text_content()


@pytest.mark.browser
def test_log_is_filtered_by_text_and_level(look: Looking) -> None:
    page = look.page
    expect(page.locator("#log")).to_contain_text("listening on")
    page.fill("#log-filter", "LISTENING")
    expect(page.locator("#log span:visible")).to_have_count(1)
    page.fill("#log-filter", "")
    page.select_option("#log-level", "error")
    expect(page.locator("#log span:visible", has_text="listening on")).to_have_count(0)


@pytest.mark.browser
def test_crash_stays_listed_under_a_flood_of_events(look: Looking) -> None:
    page = look.page
    page.evaluate(
        """async () => {
          const { Events } = await import("./page/views/events.js");
          const list = new Events();
          const facts = { cause: "a cause", pid: 1, in_flight: [] };
          list.add({ id: 1, at: Date.now(), kind: "crash", model: "nano", facts });
          for (let id = 2; id < 1000; id += 1) {
            list.add({ id, at: Date.now(), kind: "level", model: null, facts: { shown_from: id } });
          }
        }"""
    )
    expect(page.locator("#events li", has_text="log level set to 999")).to_have_count(1)
    expect(page.locator("#events li", has_text="a cause (pid 1)")).to_have_count(1)
    assert page.locator("#events li").count() <= 300
    page.select_option("#events-of", "bad")
    expect(page.locator("#events li:visible", has_text="a cause (pid 1)")).to_have_count(1)
    expect(page.locator("#events li:visible", has_text="log level set")).to_have_count(0)
