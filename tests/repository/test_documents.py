"""The documents name files that exist, and keep their forms."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
ARCHITECTURE: Final = DOCS / "concepts" / "architecture.md"
DECISIONS: Final = sorted((DOCS / "decisions").glob("*.md"))

DOCUMENTS: Final = [
    *(ROOT / name for name in ("CHANGELOG.md", "README.md", "deploy/README.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
    *sorted(DOCS.rglob("*.md")),
]

FENCED: Final = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
CODE: Final = re.compile(r"`([^`\n]+)`")
SOURCE: Final = re.compile(r"[\w.][\w./-]*(\.(py|js|css|html)|/)")
"""A path of a source file, or of a folder, which ends in a slash."""
MODULE: Final = re.compile(r"(mlx_worker|tests)(\.\w+)+")
CLASS: Final = re.compile(r"([A-Z][a-z]+)+")

SUFFIXES: Final = frozenset({".json", ".py", ".service", ".plist", ".toml", ".yml", ".html", ".js"})
"""Endings of files that may name a document."""

PLACES: Final = (ROOT, ROOT / "mlx_worker", ROOT / "mlx_worker" / "api" / "dialects")
"""Where the paths that documents name begin."""

NO_SOURCES: Final = frozenset(
    {
        *(
            f"mlx_worker.{name}"
            for name in ("outcome", "request_id", "disk_tokens", "child_lost", "resumed")
        ),
        "dist/",
    }
)
"""Names in traces, which look like modules, and a folder that a build makes."""

POINTS: Final = ["Context", "Decision", "Consequence", "Evidence"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def found_in(paths: Iterable[Path], wrong: Callable[[Path], Iterable[str]]) -> dict[str, list[str]]:
    """Return what is wrong in each of these documents where anything is."""
    found = {name_of(path): list(wrong(path)) for path in paths}
    assert len(found) > 50
    return {name: lines for name, lines in found.items() if lines}


def prose(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return FENCED.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> Iterator[str]:
    for link in LINK.findall(prose(path)):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def test_every_link_of_a_document_resolves() -> None:
    assert found_in(DOCUMENTS, broken_links) == {}


def missing_sources(path: Path) -> Iterator[str]:
    for code in CODE.findall(prose(path)):
        if code.startswith(("~", "/")):
            continue  # a path of the reader's machine
        for word in code.split():
            if word in NO_SOURCES:
                continue
            if SOURCE.fullmatch(word):
                if not any((place / word).exists() for place in PLACES):
                    yield word
            elif MODULE.fullmatch(word):
                module = ROOT.joinpath(*word.split("."))
                if not module.is_dir() and not module.with_suffix(".py").is_file():
                    yield word


def test_every_source_that_a_document_names_exists() -> None:
    assert found_in(DOCUMENTS, missing_sources) == {}


@cache
def defined_classes() -> set[str]:
    """Return the names of all classes of the package."""
    sources = [source.read_text() for source in (ROOT / "mlx_worker").rglob("*.py")]
    return {name for text in sources for name in re.findall(r"^class (\w+)", text, re.MULTILINE)}


@pytest.mark.parametrize("path", [*DECISIONS, ARCHITECTURE], ids=name_of)
def test_every_class_that_a_document_names_exists(path: Path) -> None:
    named = {code for code in CODE.findall(prose(path)) if CLASS.fullmatch(code)}
    assert named - defined_classes() == set()


def test_every_document_that_a_source_names_exists() -> None:
    folders = ("mlx_worker", "tests", "config", "deploy", ".github")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    sources = [file for file in files if file.suffix in SUFFIXES]
    assert len(sources) > 500
    named = {
        (name_of(source), page)
        for source in (*sources, ROOT / "pyproject.toml", ROOT / "tox.ini")
        for page in re.findall(r"\bdocs/[\w./-]+\.md\b", source.read_text(encoding="utf-8"))
    }
    assert {(source, page) for source, page in named if not (ROOT / page).exists()} == set()


def test_every_room_in_the_picture_of_the_tree_exists() -> None:
    tree = ARCHITECTURE.read_text().split("```\nmlx_worker/\n")[1].split("```")[0]
    rooms = re.findall(r"(?<![\w/])([\w./]+(?:\.py|/))(?=\s)", tree)
    assert len(rooms) > 30
    package = ROOT / "mlx_worker"
    places = [ROOT, package, *(room for room in package.iterdir() if room.is_dir())]
    assert [room for room in rooms if not any((place / room).exists() for place in places)] == []


def test_every_folder_of_the_package_is_in_the_picture_of_the_tree() -> None:
    tree = ARCHITECTURE.read_text().split("```\nmlx_worker/\n")[1].split("```")[0]
    folders = [file.parent.name for file in (ROOT / "mlx_worker").glob("*/__init__.py")]
    assert [name for name in [*folders, "page"] if f"{name}/" not in tree] == []


def scripts(path: Path) -> Iterator[str]:
    """Yield what loads a script: the theme does so for each block of Mermaid."""
    pattern = r"^ *(?:```|- name: )mermaid|^extra_javascript|<script"
    yield from re.findall(pattern, path.read_text(), re.MULTILINE)


def test_no_document_needs_a_script_of_another_host() -> None:
    assert found_in([ROOT / "mkdocs.yml", *DOCS.rglob("*.md")], scripts) == {}


def test_a_script_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```mermaid\na --> b\n```\n<script src='https://example.com/a.js'>\n")
    assert list(scripts(page)) == ["```mermaid", "<script"]


def test_the_architecture_is_one_page() -> None:
    assert len(prose(ARCHITECTURE).split()) <= 900


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


class _Settings(yaml.SafeLoader):
    """Reads mkdocs.yml; the names of Python functions in the file are left as they are."""


_Settings.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda _, name, __: name)


def pages_of(entry: Any) -> Iterator[str]:
    """Yield the pages of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        yield from (page for below in entry.values() for page in pages_of(below))
    else:
        yield from (page for below in entry for page in pages_of(below))


def test_every_page_is_in_the_navigation_once_and_every_entry_is_a_page() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), _Settings)
    pages = sorted(pages_of(settings["nav"]))
    assert pages == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


@pytest.mark.parametrize("path", DECISIONS, ids=name_of)
def test_every_decision_has_its_four_points(path: Path) -> None:
    for section in prose(path).split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        if heading == "What is not built":
            continue
        points = re.findall(r"^- \*\*(\w+):\*\* ", text, flags=re.MULTILINE)
        assert points == POINTS, heading


def test_every_area_of_decisions_is_in_the_index() -> None:
    (index,) = [path for path in DECISIONS if path.name == "README.md"]
    areas = {path.name for path in DECISIONS} - {index.name}
    assert set(LINK.findall(index.read_text())) >= areas


def test_a_missing_source_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`api/no.py`, `supervisor/`, `no/` and `tests.tools.no` of `/health/`")
    assert list(missing_sources(page)) == ["api/no.py", "no/", "tests.tools.no"]


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](page.md#a-title) [b](#no) [c](no.md) [d](https://example.com)")
    assert list(broken_links(page)) == ["#no", "no.md"]
