"""Find and press parts of the page, and judge what the page shows."""

from importlib.resources import files

from playwright.sync_api import Locator, Page, expect

from tests.processes import RunningNode

VIOLATIONS = """async () => (await axe.run()).violations.map(
  (rule) => `${rule.id}: ${rule.nodes.map((node) => node.html).join(" ")}`
)"""

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

    def fold(self, model: str) -> Locator:
        """The button that opens and closes a model's details."""
        return self.card(model).locator("button.fold")

    def figure(self, model: str, term: str) -> Locator:
        """The figure under that term in a model's details."""
        return self.card(model).locator(f"dl div:has(dt:text-is('{term}')) dd")

    def press(self, model: str, action: str, *, sure: str | None = None) -> None:
        """Press a model's button, and the one of the question that follows, if one does."""
        self.page.get_by_role("button", name=f"{action} {model}", exact=True).click()
        if sure is not None:
            self.page.locator("#ask-yes", has_text=sure).click()

    def violations(self) -> list[str]:
        """Return what axe finds wrong with the page as it is, each with its elements."""
        axe = files("axe_playwright_python").joinpath("axe.min.js").read_text()
        self.page.evaluate(axe)
        found: list[str] = self.page.evaluate(VIOLATIONS)
        return found

    def is_wider_than_its_window(self) -> bool:
        wider: bool = self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        return wider
