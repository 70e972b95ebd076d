"""Whether the disk can be used now: off after a failure with one line, on again when it heals.

A full or read-only volume still serves reads. Any thread. [child]
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

RETRY_SECONDS: Final = 30.0

_STILL_READABLE: Final = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG})


class Availability:
    """The state of the tier: `reason` is "" while the tier is on."""

    def __init__(self, report: Callable[[str], None], monotonic: Callable[[], float]) -> None:
        self._report = report
        self._monotonic = monotonic
        self._retry_at = 0.0
        self.reason = ""
        self.can_read = False
        self.can_write = False

    def on_written(self) -> None:
        """Record that a write succeeded; say so after a failure."""
        if self.reason:
            self._report("the KV cache on disk is on again")
        self.reason = ""

    def try_again(self) -> None:
        """Allow reads and writes; the failure is over with the next write that succeeds."""
        self.can_read = self.can_write = True

    def switch_off(self, error: Exception) -> None:
        """Record a failure; say so once, until the disk works again."""
        if not self.reason:
            self._report(f"the KV cache on disk is off: {error}")
        self.reason = str(error) or type(error).__name__
        self.can_write = False
        readable = isinstance(error, OSError) and error.errno in _STILL_READABLE
        self.can_read = self.can_read and readable
        self._retry_at = self._monotonic() + RETRY_SECONDS

    def is_retry_due(self) -> bool:
        """Return True if the tier is off and has been for long enough to try again."""
        return bool(self.reason) and self._monotonic() >= self._retry_at
