"""A node that asks for a key, from the page's side: what is refused here stands for the node."""

from playwright.sync_api import Browser, Page, Route, expect

from mlx_worker.api.error_bodies import openai_error
from mlx_worker.errors import WorkerError
from tests.page.looking import Looking
from tests.processes import RunningNode

KEY = "a-key-of-the-node"
REFUSAL = openai_error(WorkerError("this node asks for an API key"))


def guard(page: Page, asked: list[str]) -> None:
    """Refuse whatever comes without the key, but for the page's own files."""

    def let(route: Route) -> None:
        request = route.request
        asked.append(request.url)
        if request.headers.get("authorization") == f"Bearer {KEY}":
            route.continue_()
        else:
            route.fulfill(status=401, content_type="application/json", body=REFUSAL)

    page.route("**/admin/**", let)
    page.route("**/v1/**", let)


def test_a_wrong_key_is_said_to_be_wrong_and_the_right_one_opens(
    browser: Browser, node: RunningNode
) -> None:
    with browser.new_context() as context:
        look = Looking(page := context.new_page(), node)
        asked: list[str] = []
        guard(page, asked)
        page.goto(node.url + "/")
        expect(page.locator("#key-problem")).to_have_text("This node asks for an API key.")
        page.fill("#key", "not-the-key")
        page.keyboard.press("Enter")
        expect(page.locator("#key-problem")).to_have_text("This node does not know that key.")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        expect(look.badge("nano")).to_have_text("ready")
        expect(page.locator("#log")).to_contain_text("listening")
        look.press("nano", "Restart", sure="Restart")
        expect(page.locator("#toasts")).to_contain_text("new process")
        page.reload()
        expect(look.badge("nano")).to_have_text("ready")
        assert not any(KEY in url for url in asked)
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.click("#key-button")
        page.click("#key-forget")
        page.reload()
        expect(page.locator("#key-problem")).to_have_text("This node asks for an API key.")
