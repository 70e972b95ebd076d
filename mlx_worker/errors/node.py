"""Errors of the node's state: the same request may succeed at another time or on another node.

The front raises them about models, memory, queues and children; a child raises `Unavailable`.
[both]
"""

from __future__ import annotations

from mlx_worker.errors.base import WorkerError


class Unavailable(WorkerError):
    """The node cannot serve this request now, but may later."""

    status = 503
    code = "unavailable"


class ModelLoading(Unavailable):
    """The model's child is starting, loading or restarting."""

    code = "model_loading"


class ModelFailed(Unavailable):
    """The model was given up; `retry_after` is the time until the node tries again."""

    code = "model_failed"


class MemoryFull(Unavailable):
    """The model does not fit in memory beside the models that are loaded now."""

    code = "memory_full"


class ModelTooLarge(Unavailable):
    """The model would not fit in memory even alone."""

    code = "model_too_large"
    resend = False


class ModelBusy(WorkerError):
    """The model serves requests and cannot be unloaded."""

    status = 409
    code = "model_busy"
    kind = "invalid_request_error"
    exit_code = 75


class NodeDraining(Unavailable):
    """The node is shutting down and takes no new work."""

    code = "node_draining"


class TooManyConnections(Unavailable):
    """More connections than `max_connections` have work."""

    code = "too_many_connections"


class QueueFull(WorkerError):
    """More requests wait for this model than `max_queue` allows."""

    status = 429
    code = "queue_full"
    kind = "rate_limit_error"


class ChildLost(WorkerError):
    """The child died while it ran this request, and no other child resumed the request in time.

    Not a kind of `Unavailable`, because the request was tried and failed.
    """

    status = 503
    code = "child_lost"


class PoisonedRequest(WorkerError):
    """The request was in flight at `max_crashes` crashes of its child and is not run again."""

    code = "poisoned_request"
    resend = False


class WeightsChanged(WorkerError):
    """The answer was started with other weights or versions than those of the current process.

    Its rest would come from another model. The caller decides whether to send the request again.
    """

    code = "weights_changed"
    resend = False


class RequestTimedOut(WorkerError):
    """The request took longer than the model's `request_timeout`."""

    status = 504
    code = "request_timeout"
    resend = False


class RequestCancelled(WorkerError):
    """An operator has cancelled the request.

    Not a kind of `Unavailable`: a client or proxy that tried again, here or at another node, would
    bring back what the operator has ended.
    """

    code = "cancelled_by_operator"
    resend = False


class ResponseCancelled(RequestCancelled):
    """The client has cancelled a response that was made in the background."""

    code = "response_cancelled"


class ProtocolViolation(WorkerError):
    """The bytes on the pipe are not a message of the protocol."""

    code = "child_misbehaved"
