"""What axe finds wrong with the page: nothing, in any state of the node."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.page.page_object import Looking
from tests.processes import RunningNode, running_node

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_idle_node_with_all_open_has_no_violations(
    browser: Browser, node: RunningNode, scheme: str, width: int
) -> None:
    viewport = {"width": width, "height": 900}
    with browser.new_context(color_scheme=scheme, viewport=viewport) as context:
        look = Looking(context.new_page(), node)
        look.open()
        expect(look.page.locator("#legend button")).to_have_count(2)
        for summary in look.page.locator("summary").all():
            summary.click()
        expect(look.page.locator("#settings-note")).not_to_contain_text("Waiting")
        look.page.locator(".plot").first.focus()
        assert look.violations() == []


def test_node_at_work_has_no_violations(look: Looking) -> None:
    look.page.fill("#max-tokens", "4000")
    look.page.fill("#message", "tell me everything")
    look.page.click("#send")
    expect(look.page.locator("#transcript .turn")).to_have_count(2)
    assert look.violations() == []
    look.page.dispatch_event("#stop", "click")  # the answer may have ended while axe looked


def test_question_has_no_violations(look: Looking) -> None:
    look.press("nano", "Warm…")
    look.page.click("#ask-yes")
    expect(look.page.locator("#ask-problem")).to_contain_text("empty")
    assert look.violations() == []


def test_crash_has_no_violations(look: Looking) -> None:
    pid = look.node.model("tiny")["pid"]
    os.kill(pid, signal.SIGKILL)
    expect(look.badge("tiny")).not_to_have_text("ready")
    assert look.violations() == []
    crash = look.page.locator("#events li", has_text=f"(pid {pid})")
    expect(crash).to_be_visible()
    expect(look.badge("tiny")).to_have_text("ready")
    assert look.violations() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_failed_model_has_no_violations(browser: Browser, crowd: RunningNode, scheme: str) -> None:
    with browser.new_context(color_scheme=scheme) as context:
        look = Looking(context.new_page(), crowd)
        look.open()
        look.fold("vision-12b").click()
        assert look.violations() == []


@pytest.fixture
def busy(nano: Path, tmp_path: Path) -> Iterator[tuple[RunningNode, int]]:
    """A node of a test's own with a hung model, whose requests keep the node from ending."""
    timing = "drain_timeout = 60"
    with running_node(tmp_path, {"nano": nano}, supervisor=timing) as running:
        running.wait_until_ready()
        pid = running.model("nano")["pid"]
        yield running, pid
        running.process.send_signal(signal.SIGCONT)
        running.process.kill()


def test_draining_node_is_said_to_drain_and_has_no_violations(
    browser: Browser, busy: tuple[RunningNode, int]
) -> None:
    node, pid = busy
    with browser.new_context() as context:
        look = Looking(context.new_page(), node)
        look.open()
        os.kill(pid, signal.SIGSTOP)
        look.page.fill("#message", "hello")
        look.page.click("#send")
        expect(look.page.locator("#tiles div:has(dt:text-is('in flight')) dd")).to_have_text("1")
        node.process.send_signal(signal.SIGTERM)
        expect(look.page.locator("#status")).to_have_text("draining")
        expect(look.page.locator("#link")).to_have_text("live until the drain ends")
        assert look.violations() == []
        os.kill(pid, signal.SIGCONT)


def test_silent_node_is_marked_old_and_has_no_violations(
    browser: Browser, busy: tuple[RunningNode, int]
) -> None:
    node, _ = busy
    with browser.new_context() as context:
        look = Looking(page := context.new_page(), node)
        look.open()
        node.process.send_signal(signal.SIGSTOP)
        expect(page.locator("#status")).to_contain_text("as of ")
        expect(page.locator("#status")).to_have_attribute("data-mood", "rest")
        expect(page.locator("#link")).to_have_text("no answer")
        expect(page.locator("#notice")).to_contain_text("for 4 s")
        assert page.title() == "no answer · mlx-worker"
        green = look.badge("nano").evaluate("(badge) => getComputedStyle(badge).color")
        assert green == page.locator("#status").evaluate("(one) => getComputedStyle(one).color")
        look.press("nano", "Restart", sure="Restart")
        expect(page.locator("#toasts")).to_contain_text("Restart: waiting for the node")
        expect(page.locator("#toasts")).to_contain_text("did not answer within 10 s")
        assert look.violations() == []
        node.process.send_signal(signal.SIGCONT)
        expect(page.locator("#link")).to_have_text("live")
        expect(page.locator("#status")).not_to_contain_text("as of")
        expect(page.locator("#notice")).to_be_hidden()
