"""Check that a tag, the version, the changelog and the address fit together; print the notes.

For releases: `python -m tests.tools.release v1.2.3` in the root of a checkout prints the section of
the changelog for this version. With `--repository URL`, as the release workflow says it, the
metadata of the package must name that address. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]

HEADING: Final = re.compile(r"^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)
"""A version's heading in the changelog: the version, and the day on which it was released."""

NOT_RELEASED: Final = "No version has been released yet."
"""The sentence under Unreleased until the first release."""


def version_of(root: Path = ROOT) -> str:
    """Return the version that the package says it has."""
    text = (root / "mlx_worker" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    assert found, "mlx_worker/__init__.py has the version"
    return found[1]


def sections(changelog: str) -> dict[str, tuple[str, str]]:
    """Return each version of a changelog with its day ("" without one) and its text."""
    _, *parts = HEADING.split(changelog)
    versions, days, texts = parts[::3], parts[1::3], parts[2::3]
    return {
        version: (day or "", text.strip())
        for version, day, text in zip(versions, days, texts, strict=True)
    }


def misfits(tag: str, repository: str | None, root: Path = ROOT) -> Iterator[str]:
    """Yield what does not fit together for a release by this tag."""
    version = version_of(root)
    if tag != f"v{version}":
        yield f"the tag is {tag}, but mlx_worker/__init__.py has version {version}: v{version}"
    day, text = sections((root / "CHANGELOG.md").read_text(encoding="utf-8")).get(version, ("", ""))
    if not day:
        yield f"CHANGELOG.md has no heading `## [{version}] - YYYY-MM-DD`"
    elif not text:
        yield f"CHANGELOG.md says nothing about {version}"
    elif NOT_RELEASED in text:
        yield f'CHANGELOG.md says "{NOT_RELEASED}" under {version}: remove that sentence'
    if repository is not None:
        with (root / "pyproject.toml").open("rb") as file:
            project: dict[str, Any] = tomllib.load(file)["project"]
        if project.get("urls", {}).get("Source") != repository:
            yield f'pyproject.toml has no `Source = "{repository}"` under [project.urls]'


def main() -> None:
    """Print the notes of a release, or what does not fit together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tag")
    parser.add_argument("--repository", metavar="URL")
    given = parser.parse_args()
    if found := list(misfits(given.tag, given.repository)):
        sys.exit("\n".join(found))
    _, notes = sections((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[version_of()]
    sys.stdout.write(notes + "\n")


if __name__ == "__main__":
    main()
