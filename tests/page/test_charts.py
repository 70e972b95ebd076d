"""The charts: units, names, keyboard, one model alone, a table, colours for everybody."""

import math
import re
from itertools import combinations
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.page.page_object import Looking

pytestmark = pytest.mark.browser

THEME = Path(__file__).parents[2] / "mlx_worker" / "page" / "style" / "theme.css"

Colour = tuple[float, float, float]
Matrix = tuple[Colour, Colour, Colour]

SIGHTS: dict[str, Matrix] = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "no green": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
    "no blue": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.3039),
    ),
}
"""What is left of linear RGB for readers without a kind of cone (Machado and others, 2009)."""


@pytest.fixture
def plot(look: Looking) -> Locator:
    expect(look.page.locator("#legend button")).to_have_count(2)
    return look.page.get_by_role("slider", name="Tokens per second")


def test_axes_have_units_and_times(look: Looking, plot: Locator) -> None:
    frame = look.page.locator(".chart", has_text="Tokens per second")
    expect(frame.locator(".marks span").first).to_have_text("0 tokens/s")
    assert frame.locator(".marks span").count() >= 2
    times = frame.locator(".times span").all_inner_texts()
    assert len(times) >= 2
    assert all(re.fullmatch(r"\d\d:\d\d", text) for text in times)
    expect(plot).to_have_attribute("aria-valuetext", re.compile(r"\d\d:\d\d:\d\d: nano "))


def test_pointed_moment_names_each_model_and_unit(look: Looking, plot: Locator) -> None:
    look.page.mouse.move(0, 0)
    plot.hover()
    tip = look.page.locator(".tip:visible")
    expect(tip.locator("li", has_text="nano: ")).to_contain_text("tokens/s")
    expect(tip.locator("li", has_text="tiny: ")).to_contain_text("tokens/s")
    look.page.mouse.move(0, 0)
    expect(tip).to_be_hidden()


def test_keyboard_chooses_a_moment(look: Looking, plot: Locator) -> None:
    plot.focus()
    look.page.keyboard.press("Home")
    expect(plot).to_have_attribute("aria-valuenow", "0")
    expect(look.page.locator(".tip:visible")).to_contain_text("nano: ")
    look.page.keyboard.press("Escape")
    expect(look.page.locator(".tip:visible")).to_have_count(0)


def test_legend_shows_one_model_alone(look: Looking, plot: Locator) -> None:
    page = look.page
    assert "tiny" in (plot.get_attribute("aria-valuetext") or "")
    button = page.locator("#legend button", has_text="nano")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(plot).not_to_have_attribute("aria-valuetext", re.compile("tiny"))
    button.click()
    expect(plot).to_have_attribute("aria-valuetext", re.compile("tiny"))


def test_table_behind_a_chart_has_its_figures(page: Page, plot: Locator) -> None:
    expect(plot).to_be_visible()
    chart = page.locator(".chart", has_text="Memory of processes")
    chart.locator("summary").click()
    expect(chart.locator("thead th")).to_have_text(["time", "nano", "tiny"])
    expect(chart.locator("tbody tr").first.locator("td").first).to_contain_text("MB")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_of_models_differ_for_all_readers(scheme: str) -> None:
    found = re.findall(r"--(m\d|card): (#[0-9a-f]{6})", THEME.read_text())
    light, dark = dict(found[:7]), dict(found[7:])
    colours = {name: linear(code) for name, code in (light if scheme == "light" else dark).items()}
    card = luminance(colours.pop("card"))
    for name, colour in colours.items():
        bright, dim = sorted((luminance(colour), card), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 3, name
    for sight, matrix in SIGHTS.items():
        for (one, a), (other, b) in combinations(colours.items(), 2):
            assert math.dist(lab(seen(a, matrix)), lab(seen(b, matrix))) > 25, (sight, one, other)


def linear(code: str) -> Colour:
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (int(code[place : place + 2], 16) / 255 for place in (1, 3, 5))
    )
    return red, green, blue


def luminance(colour: Colour) -> float:
    red, green, blue = colour
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def seen(colour: Colour, matrix: Matrix) -> Colour:
    red, green, blue = (
        max(0.0, sum(weight * part for weight, part in zip(row, colour, strict=True)))
        for row in matrix
    )
    return red, green, blue


def lab(colour: Colour) -> Colour:
    red, green, blue = colour
    x, y, z = (
        part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116
        for part in (
            (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047,
            luminance(colour),
            (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883,
        )
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)
