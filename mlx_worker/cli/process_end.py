"""End the node's process: its last line is written if stderr accepts lines, and no exit hangs.

Python itself writes uncaught exceptions to stderr and waits for that write. While the node runs,
such reports go through the log, and the end of the process waits a bounded time. [front]
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from typing import TYPE_CHECKING

import click

from mlx_worker.errors import WorkerError
from mlx_worker.log_writer import STDERR, write_within
from mlx_worker.logs import FLUSH, Entry, flush

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

DEFECT = 1
"""Exit code of a node that ended by a defect."""

INTERRUPTED = 130


@contextlib.contextmanager
def reported_end() -> Iterator[None]:
    """Turn what ends the node into a line and an exit code. Raises SystemExit."""
    try:
        with _python_reports_to_the_log():
            yield
    except WorkerError as error:
        flush()
        write_within(STDERR, f"mlx-worker: {error}", FLUSH)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except click.ClickException:  # wrong usage, which the command line reports
        raise
    except Exception:
        log.critical(Entry("the node ended by a defect"), exc_info=True)
        sys.exit(DEFECT)
    finally:
        flush()


@contextlib.contextmanager
def _python_reports_to_the_log() -> Iterator[None]:
    """Send warnings, and exceptions of threads and finalizers, to the log instead of stderr."""
    of_threads, unraisable = threading.excepthook, sys.unraisablehook
    threading.excepthook = _log_end_of_thread
    sys.unraisablehook = _log_unraisable
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        threading.excepthook, sys.unraisablehook = of_threads, unraisable


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and ended.exc_type is not SystemExit:
        thread = ended.thread.name if ended.thread else None
        log.error(Entry("a thread ended by a defect", thread=thread), exc_info=ended.exc_value)


def _log_unraisable(report: sys.UnraisableHookArgs) -> None:
    what = report.err_msg or "exception ignored"
    log.error(Entry(what, where=repr(report.object)), exc_info=report.exc_value)
