"""Whether the page fits a phone, light and dark, and is compact with ten models."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from mlx_worker.config.sizes import in_words
from tests.page.conftest import CROWD
from tests.page.page_object import Looking
from tests.processes import RunningNode

pytestmark = pytest.mark.browser


HERE = Path(__file__).parent
CONTRAST = (HERE / "contrast.js").read_text()
NAMELESS = (HERE / "nameless.js").read_text()


WIDTHS = [320, 390, 600, 768, 1024, 1280, 1440]


def test_page_with_long_names_at_any_width_does_not_scroll_sideways(
    browser: Browser, crowd: RunningNode
) -> None:
    with browser.new_context() as context:
        look = Looking(context.new_page(), crowd)
        look.open()
        for model in ("vision-12b", "writer-7b", CROWD[-1]):
            if look.fold(model).get_attribute("aria-expanded") == "false":
                look.fold(model).click()
        look.page.locator("#settings summary").click()
        expect(look.page.locator("#settings-note")).not_to_contain_text("Waiting")
        for width in WIDTHS:
            look.page.set_viewport_size({"width": width, "height": 780})
            assert not look.is_wider_than_its_window(), width


def test_page_on_a_phone_does_not_scroll_sideways(browser: Browser, node: RunningNode) -> None:
    viewport = {"width": 320, "height": 780}
    with browser.new_context(viewport=viewport, is_mobile=True, has_touch=True) as context:
        look = Looking(context.new_page(), node)
        look.open()
        expect(look.badge("tiny")).to_be_visible()
        assert not look.is_wider_than_its_window()


@pytest.mark.parametrize(("width", "height"), [(1280, 700), (390, 1200)])
def test_ten_models_are_a_short_table_with_the_failed_one_first(
    browser: Browser, crowd: RunningNode, width: int, height: int
) -> None:
    with browser.new_context(viewport={"width": width, "height": height}) as context:
        look = Looking(context.new_page(), crowd)
        look.open()
        names = look.page.locator("#models .fold")
        expect(names).to_have_count(10)
        assert names.all_inner_texts()[:2] == ["vision-12b", "writer-7b"]
        box = look.page.locator("#models").bounding_box()
        assert box is not None
        assert box["height"] < height


def test_memory_is_in_the_units_of_the_status_command(look: Looking) -> None:
    used = look.page.locator("#node-bars .amount")
    limit = look.node.ask("/health").json["memory"]["limitBytes"]
    expect(used).to_contain_text(f"of {in_words(limit)}")
    assert "iB" not in (look.page.locator("main").text_content() or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(
    browser: Browser, node: RunningNode, scheme: str
) -> None:
    with browser.new_context(color_scheme=scheme) as context:
        look = Looking(context.new_page(), node)
        look.open()
        assert look.page.evaluate(CONTRAST) == []


def test_everything_that_can_be_used_has_a_name(page: Page) -> None:
    assert page.evaluate(NAMELESS) == []
