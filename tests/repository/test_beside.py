"""The exit status and the output of commands that run side by side."""

from __future__ import annotations

import shlex
import sys

import pytest

from tests.tools.beside import NOT_FOUND, main


def exits(code: int, said: str = "") -> str:
    program = f"import sys; print({said!r}); sys.exit({code})"
    return shlex.join([sys.executable, "-c", program])


@pytest.mark.parametrize(
    ("codes", "status"), [((0, 0), 0), ((2, 0), 2), ((0, 3), 3), ((2, 3), 2), ((0,), 0), ((4,), 4)]
)
def test_commands_side_by_side_fail_if_one_fails(codes: tuple[int, ...], status: int) -> None:
    assert main([exits(code) for code in codes]) == status


def test_what_each_command_said_is_shown_with_its_status(
    capfd: pytest.CaptureFixture[str],
) -> None:
    quiet, shown = exits(1, "from the types"), exits(0, "from the tests")
    main([quiet, shown])
    said = capfd.readouterr().out
    assert said.index("from the tests") < said.index("from the types")
    assert f"{quiet}: exit status 1" in said
    assert f"{shown}: exit status 0" in said


def test_a_command_that_there_is_not_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-command --at-all", exits(0)]) == NOT_FOUND
    assert "there is no no-such-command" in capsys.readouterr().err
