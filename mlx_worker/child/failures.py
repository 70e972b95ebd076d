"""The answer to a request that cannot be served, and the line in the log about it.

[child]
"""

from __future__ import annotations

import logging

from mlx_worker.child.fatal import frames_of
from mlx_worker.errors import CHILD_CODES, ContextLengthExceeded, WorkerError
from mlx_worker.logs import Entry
from mlx_worker.wire.framing import encodable
from mlx_worker.wire.messages import RequestFailed

log = logging.getLogger(__name__)


def failure_of(id_: int, error: BaseException) -> RequestFailed:
    """Return the answer to a request that ended with this error."""
    # A template may quote what is no text; a frame that cannot be made would end the process.
    message = encodable(str(error)) or type(error).__name__
    if isinstance(error, ContextLengthExceeded):
        return RequestFailed(id_, error.code, message, error.param, error.tokens, error.context)
    if isinstance(error, WorkerError) and error.code in CHILD_CODES:
        return RequestFailed(id_, error.code, message, error.param and encodable(error.param))
    return RequestFailed(id_, WorkerError.code, message)


def log_failure(error: BaseException, request_id: str) -> None:
    """Log where an error comes from, but not its text, which may quote the prompt."""
    if isinstance(error, WorkerError):
        log.debug(Entry("refused", request_id=request_id, error=error.code))
        return
    where = frames_of(error)
    log.error(Entry("failed", request_id=request_id, error=type(error).__name__, frames=where))
