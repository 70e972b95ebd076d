"""Errors that the functions of `inference`, `cache` and `health` raise to Python programs.

Their names are public. [both]
"""

from __future__ import annotations

from mlx_worker.errors.base import WorkerError
from mlx_worker.errors.request import InvalidRequest


class InferenceError(WorkerError):
    """Loading or generating failed; the message has the cause."""

    code = "inference_error"


class ModelNotFoundError(InferenceError):
    """There is no model at this path."""

    code = "model_not_found"
    exit_code = 66


class InvalidSetting(InvalidRequest, ValueError):
    """A setting of a Python call exceeds the limits of requests over HTTP."""

    code = "invalid_setting"


class CacheError(WorkerError):
    """A prompt could not be prefilled into the KV cache."""

    code = "cache_error"


class HealthError(WorkerError, ValueError):
    """A figure is impossible for a request, such as a negative latency."""

    code = "health_error"
