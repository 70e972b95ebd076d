"""It fits a phone, light and dark, and can be read by those who do not see it."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.page_object import Looking
from tests.processes import RunningNode

pytestmark = pytest.mark.browser


HERE = Path(__file__).parent
CONTRAST = (HERE / "contrast.js").read_text()
NAMELESS = (HERE / "nameless.js").read_text()


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_phone(browser: Browser, node: RunningNode, width: int) -> None:
    viewport = {"width": width, "height": 780}
    with browser.new_context(viewport=viewport, is_mobile=True, has_touch=True) as context:  # type: ignore[arg-type]
        look = Looking(context.new_page(), node)
        look.open()
        expect(look.badge("tiny")).to_be_visible()
        assert not look.is_wider_than_its_window()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(
    browser: Browser, node: RunningNode, scheme: str
) -> None:
    with browser.new_context(color_scheme=scheme) as context:  # type: ignore[arg-type]
        look = Looking(context.new_page(), node)
        look.open()
        assert look.page.evaluate(CONTRAST) == []


def test_everything_that_can_be_used_has_a_name(page: Page) -> None:
    assert page.evaluate(NAMELESS) == []
