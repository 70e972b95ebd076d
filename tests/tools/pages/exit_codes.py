"""Write docs/reference/exit-codes.md: how commands end, from the classes of errors."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from mlx_worker.cli.cache_commands import WRONG_RECORDS
from mlx_worker.cli.reports.status import EXIT_CODES
from mlx_worker.errors import NodeUnreachable, Unauthorized, WorkerError
from mlx_worker.service.commands import NOT_INSTALLED, NOT_RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEGINNING: Final = """\
# Exit codes

Written by `python -m tests.tools.generated` from the classes of errors. The codes follow
`sysexits.h`. A command that fails prints one line on stderr, and `check` one for each problem.

| exit code | when |
|---|---|
| 0 | The command did what it was asked to; `serve` was stopped by SIGTERM or ctrl-C. |
| 1 | An error without its own code; a bad finding of `doctor`; a failed `--wait`; no to `rm`. |
| 2 | Wrong usage, as of an option, an argument or a command that does not exist. |
"""

_STATUS: Final = """
## mlx-worker status

The exit code of `mlx-worker status` is the status of the node:

| exit code | the node is |
|---|---|
"""

_MEANING: Final = {
    "healthy": "every model that is to run serves, and requests succeed",
    "degraded": "the node serves, but a model is down or requests fail",
    "unhealthy": "no model serves, or most requests fail",
    "initializing": "no model serves yet, and at least one starts",
    "offline": "the node drains before it stops",
}

_FITS: Final = """
## mlx-worker fits

| exit code | the model |
|---|---|
| 0 | fits |
| 1 | does not fit |
| 3 | needs memory that the command cannot tell |
"""

_VERIFY: Final = f"""
## mlx-worker cache verify

| exit code | the records on disk |
|---|---|
| 0 | are right |
| {WRONG_RECORDS} | were not all right: the damaged ones are deleted, or reported while in use |
"""

_SERVICE: Final = f"""
## mlx-worker service status

| exit code | the service |
|---|---|
| 0 | runs |
| {NOT_RUNNING} | is installed and does not run |
| {NOT_INSTALLED} | is not installed |
"""


def page() -> str:
    """Return the page."""
    meanings: defaultdict[int, list[str]] = defaultdict(list)
    for kind in _family(WorkerError):
        if kind.exit_code != WorkerError.exit_code and "exit_code" in vars(kind):
            meanings[kind.exit_code].append((kind.__doc__ or "").partition("\n")[0])
    rows = "".join(
        f"| {code} | {' '.join(dict.fromkeys(meanings[code]))} |\n" for code in sorted(meanings)
    )
    rows += "| 130 | Ctrl-C ended the command. |\n"
    return _BEGINNING + rows + _status() + _FITS + _VERIFY + _SERVICE


def _status() -> str:
    rows = [f"| {code} | `{name}`: {_MEANING[name]} |\n" for name, code in EXIT_CODES.items()]
    rows.append(f"| {NodeUnreachable.exit_code} | not reachable |\n")
    rows.append(f"| {Unauthorized.exit_code} | asking for another key |\n")
    return _STATUS + "".join(rows)


def _family(kind: type[WorkerError]) -> Iterator[type[WorkerError]]:
    """Yield a class of this package and all classes below it."""
    if kind.__module__.startswith("mlx_worker."):
        yield kind
    for below in kind.__subclasses__():
        yield from _family(below)
