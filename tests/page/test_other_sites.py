"""Pages of other sites, in the same browser: one elsewhere, and one whose name was bound anew."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.page_object import DEADLINE, Looking
from tests.processes import RunningNode

pytestmark = pytest.mark.browser


POSTS = """async address => {
  const send = (options) => fetch(address, { method: "POST", mode: "no-cors", ...options });
  await send({});
  await send({ body: "{}", headers: { "Content-Type": "text/plain" } });
  await send({ body: new FormData() });
  return "sent";
}"""
FORM = """address => {
  const form = document.createElement("form");
  Object.assign(form, { method: "POST", action: address });
  document.body.append(form);
  form.submit();
}"""


class Blank(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>elsewhere</title>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name)
        """Nothing to standard error."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """Another site's address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Blank) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://evil.test:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def stranger(browser: Browser, elsewhere: str) -> Iterator[Page]:
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(DEADLINE)
        page.goto(elsewhere)
        yield page


def test_what_another_site_posts_is_not_done(stranger: Page, node: RunningNode) -> None:
    before = node.model("nano")
    restart = f"{node.url}/admin/models/nano/restart"
    seen: list[int] = []
    stranger.on("response", lambda item: seen.append(item.status))
    assert stranger.evaluate(POSTS, restart) == "sent"
    stranger.evaluate(FORM, restart)
    stranger.wait_for_url(restart)
    expect(stranger.locator("body")).to_contain_text("cross_site")
    assert seen == [403] * 4
    assert node.model("nano")["pid"] == before["pid"]
    assert node.model("nano")["state"] == "ready"


def test_a_name_bound_anew_is_not_this_node(stranger: Page, node: RunningNode) -> None:
    port = node.url.rpartition(":")[2]
    before = node.model("nano")["pid"]
    for path in ("/", "/admin/logs", "/admin/events"):
        answer = stranger.goto(f"http://evil.test:{port}{path}")
        assert answer is not None
        assert answer.status == 421
    ask = "async path => (await fetch(path, { method: 'POST' })).status"
    assert stranger.evaluate(ask, "/admin/models/nano/restart") == 421
    assert stranger.evaluate(ask, "/v1/chat/completions") == 421
    assert node.model("nano")["pid"] == before


def test_a_name_of_the_configuration_is(browser: Browser, node: RunningNode) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(node.url.replace("127.0.0.1", "node.test"))
        look = Looking(page, node)
        expect(look.badge("nano")).to_have_text("ready")
        before = node.model("nano")["pid"]
        look.press("nano", "Restart", sure="Restart")
        expect(look.figure("nano", "pid")).not_to_have_text(str(before))
        expect(look.badge("nano")).to_have_text("ready")


def test_it_cannot_be_framed(stranger: Page, node: RunningNode) -> None:
    frame = """address => new Promise((done) => {
      const frame = document.createElement("iframe");
      frame.onload = () => done(frame.contentDocument === null);
      frame.src = address;
      document.body.append(frame);
    })"""
    refused: list[str] = []
    stranger.on("console", lambda item: refused.append(item.text))
    stranger.evaluate(frame, node.url + "/")
    assert any("frame-ancestors" in name for name in refused)
