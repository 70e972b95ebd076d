"""The root of the project's errors.

An error knows its HTTP status, the code and type that an OpenAI-shaped body carries, how long a
caller should wait before another try, and the exit code of a command. The HTTP dialects, the
commands and the pipe translate errors; no other code chooses a status. [both]
"""

from __future__ import annotations

from typing import ClassVar


class WorkerError(Exception):
    """An internal error, and the base class of all errors with a better name.

    `status` is an HTTP status. `retry_after` is in seconds; None if another try does not help.
    `exit_code` follows sysexits.h. `resend` is True if a client library may send the same request
    again by itself.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    kind: ClassVar[str] = "server_error"
    exit_code: ClassVar[int] = 1
    resend: ClassVar[bool] = True

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


def cause_of(error: BaseException) -> str:
    """Return an error of another library in one line: its type, and its message's first line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
