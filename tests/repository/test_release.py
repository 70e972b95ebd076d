"""A release is refused unless tag, version, changelog and address fit together."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

import pytest

from mlx_worker import __version__
from tests.tools.formula import TEMPLATE, formula
from tests.tools.release import HEADING, ROOT, misfits, sections, version_of

if TYPE_CHECKING:
    from pathlib import Path

CHANGELOG: Final = (ROOT / "CHANGELOG.md").read_text()
KINDS: Final = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
ADDRESS: Final = "https://example.com/mlx-worker"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout in which everything fits for a release of 1.2.3."""
    (tmp_path / "mlx_worker").mkdir()
    (tmp_path / "mlx_worker" / "__init__.py").write_text('"""About."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2030-01-31\n\n### Fixed\n\n- A fault.\n"
    )
    (tmp_path / "pyproject.toml").write_text(f'[project]\nurls.Source = "{ADDRESS}"\n')
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_nothing_is_wrong_with_a_release_whose_parts_fit(checkout: Path) -> None:
    assert list(misfits("v1.2.3", ADDRESS, checkout)) == []


def test_a_tag_of_another_version_is_refused(checkout: Path) -> None:
    (problem,) = misfits("v1.2.4", ADDRESS, checkout)
    assert "v1.2.4" in problem
    assert "v1.2.3" in problem


def test_a_version_that_the_changelog_lists_as_unreleased_is_refused(checkout: Path) -> None:
    change(checkout / "CHANGELOG.md", "## [1.2.3] - 2030-01-31\n", "")
    (problem,) = misfits("v1.2.3", ADDRESS, checkout)
    assert "## [1.2.3] - YYYY-MM-DD" in problem


def test_a_version_that_says_no_version_was_released_is_refused(checkout: Path) -> None:
    change(checkout / "CHANGELOG.md", "### Fixed", "No version has been released yet.\n\n### Fixed")
    (problem,) = misfits("v1.2.3", ADDRESS, checkout)
    assert "remove that sentence" in problem


def test_a_version_without_a_word_in_the_changelog_is_refused(checkout: Path) -> None:
    change(checkout / "CHANGELOG.md", "### Fixed\n\n- A fault.\n", "")
    (problem,) = misfits("v1.2.3", ADDRESS, checkout)
    assert "says nothing about 1.2.3" in problem


@pytest.mark.parametrize(
    "text", ["[project]\n", '[project]\nurls.Source = "https://example.org"\n']
)
def test_metadata_with_another_address_are_refused(checkout: Path, text: str) -> None:
    (checkout / "pyproject.toml").write_text(text)
    (problem,) = misfits("v1.2.3", ADDRESS, checkout)
    assert ADDRESS in problem


def test_the_address_is_not_asked_for_outside_of_the_workflow(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text("[project]\n")
    assert list(misfits("v1.2.3", None, checkout)) == []


def test_the_version_is_the_packages() -> None:
    assert version_of() == __version__


# --- the changelog ------------------------------------------------------------------------


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    versions = list(sections(CHANGELOG))
    assert versions[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+(-\w+)?", version) for version in versions[1:])


def test_every_heading_of_the_changelog_has_the_form() -> None:
    headings = re.findall(r"^## .*$", CHANGELOG, re.MULTILINE)
    assert [heading for heading in headings if not HEADING.fullmatch(heading)] == []
    released = list(sections(CHANGELOG).values())[1:]
    assert all(day for day, _ in released)
    assert [day for day, _ in released] == sorted((day for day, _ in released), reverse=True)


@pytest.mark.parametrize("version", sections(CHANGELOG))
def test_a_versions_changes_are_grouped_in_the_usual_order(version: str) -> None:
    _, text = sections(CHANGELOG)[version]
    kinds = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert kinds == [kind for kind in KINDS if kind in kinds]


# --- the formula --------------------------------------------------------------------------


def test_the_formula_names_the_wheel_of_the_release_and_its_hash(tmp_path: Path) -> None:
    wheel = tmp_path / f"mlx_worker-{__version__}-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    text = formula(wheel, "owner/name")
    assert re.search(r"@[A-Z0-9]+@", text) is None
    assert text.startswith("class MlxWorker < Formula\n")
    assert f"https://github.com/owner/name/releases/download/v{__version__}/{wheel.name}" in text
    assert hashlib.sha256(b"a wheel").hexdigest() in text


def test_the_template_says_that_it_was_not_run() -> None:
    assert "Not run by the authors" in TEMPLATE.read_text().partition("\n\n")[0]
