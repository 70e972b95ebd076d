"""The log's two forms, where it goes, and what a child's lines become."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_worker import logs
from mlx_worker.config.schema import LogConfig
from mlx_worker.config.sizes import Size
from mlx_worker.errors import ConfigError
from mlx_worker.logs import Console, Entry, JsonLines

log = logging.getLogger("mlx_worker.test")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger(logs.OWN_LOGGER)
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    root.handlers[:] = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


def record(message: object, *, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("mlx_worker.test", level, __file__, 1, message, (), None)


# --- forms ----------------------------------------------------------------------------------


def test_an_entry_as_json_is_one_line_with_its_facts_as_they_are() -> None:
    line = JsonLines().format(
        record(Entry("request", model="m", tokens=3, error=None, said="a\nb"))
    )
    assert "\n" not in line
    said = json.loads(line)
    assert said.pop("at").endswith("+00:00")
    assert said == {
        "level": "info",
        "logger": "mlx_worker.test",
        "event": "request",
        "model": "m",
        "tokens": 3,
        "error": None,
        "said": "a\nb",
    }


def test_an_entry_as_text_is_one_line_with_its_facts_behind() -> None:
    facts = {"model": "m", "tokens": 3, "error": None, "said": "a\nb", "ids": ["x", "y"]}
    line = Console().format(record(Entry("request", **facts)))
    assert line.endswith('INFO    request model=m tokens=3 error=- said="a\\nb" ids=["x","y"]')
    assert "\n" not in line


def test_an_exception_stays_in_its_line() -> None:
    try:
        int("no")
    except ValueError:
        made = record(Entry("failed"), level=logging.ERROR)
        made.exc_info = sys.exc_info()
    line = JsonLines().format(made)
    assert "\n" not in line
    assert "ValueError: invalid" in json.loads(line)["exception"]


def test_a_line_of_a_child_is_read_back_as_what_it_was() -> None:
    line = JsonLines().format(record(Entry("refused", request_id="r"), level=logging.DEBUG))
    read = logs.parse_line(line)
    assert read is not None
    level, entry = read
    assert (level, entry.event, entry.facts) == (logging.DEBUG, "refused", {"request_id": "r"})


@pytest.mark.parametrize(
    "line",
    [
        "libc++abi: terminating",
        '{"at":',
        '{"at":"x"}',
        '{"at":1,"level":2,"event":"x"}',
        '{"at":"","level":"loud","event":"x"}',
        "[1]",
        "",
    ],
)
def test_any_other_line_is_no_entry(line: str) -> None:
    assert logs.parse_line(line) is None


# --- where it goes --------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "json_"), [("auto", True), ("json", True), ("console", False)])
def test_what_is_no_terminal_gets_json_unless_told_otherwise(
    capfd: pytest.CaptureFixture[str], form: str, json_: bool
) -> None:
    logs.set_up(LogConfig(format=form))  # type: ignore[arg-type]
    log.info(Entry("hello", to="you"))
    log.debug(Entry("whispered"))
    logs.flush()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("{") == json_
    assert "hello" in line


def test_a_file_begins_anew_at_its_size_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    logs.set_up(LogConfig(file=file, max_bytes=Size(4096), keep=2))
    for number in range(200):
        log.info(Entry("counted", number=number))
    logs.flush()
    files = [file, tmp_path / "node.log.1", tmp_path / "node.log.2"]
    assert sorted(tmp_path.iterdir()) == files
    assert all(path.stat().st_size <= 4096 for path in files)
    numbers = [
        json.loads(line)["number"] for path in files[::-1] for line in path.read_text().splitlines()
    ]
    assert numbers == list(range(numbers[0], 200))


def test_a_file_that_cannot_be_written_is_one_line_about_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log\.file: .*No such file or directory"):
        logs.set_up(LogConfig(file=tmp_path / "nowhere" / "node.log"))


def test_levels_change_for_our_own_words_and_no_others(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.set_up(LogConfig(level="warning"))
    log.info("unheard")
    logs.set_level("debug")
    assert logs.level() == "debug"
    log.debug("heard")
    logging.getLogger("somebody.else").info("never heard")
    logs.flush()
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "heard"
