"""What tests of the page do over and over: open it, find a model's card, record what it said."""

from playwright.sync_api import Locator, Page, expect

from tests.processes import RunningNode

DEADLINE = 20_000.0
"""Milliseconds: far beyond what anything takes."""


class Looking:
    """A page that looks at a node. `complaints`: errors of scripts and of the console."""

    def __init__(self, page: Page, node: RunningNode) -> None:
        self.page = page
        self.node = node
        self.complaints: list[str] = []
        page.set_default_timeout(DEADLINE)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda item: self._hear(item.type, item.text))

    def _hear(self, kind: str, text: str) -> None:
        # Of a refusal the browser says that it was one; what the page makes of it is tested.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(text)

    def open(self) -> None:
        self.page.goto(self.node.url + "/")
        expect(self.page.locator("#link")).to_have_text("live")

    def card(self, model: str) -> Locator:
        return self.page.locator(f'[data-model="{model}"]')

    def badge(self, model: str) -> Locator:
        return self.card(model).locator(".badge")

    def figure(self, model: str, term: str) -> Locator:
        """The figure under that term on a model's card."""
        return self.card(model).locator(f"dl div:has(dt:text-is('{term}')) dd")

    def press(self, model: str, action: str, *, sure: str | None = None) -> None:
        """Press a model's button, and the one of the question that follows, if one does."""
        self.page.get_by_role("button", name=f"{action} {model}", exact=True).click()
        if sure is not None:
            self.page.locator("#ask-yes", has_text=sure).click()

    def is_wider_than_its_window(self) -> bool:
        wider: bool = self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        return wider
