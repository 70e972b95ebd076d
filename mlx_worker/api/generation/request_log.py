"""Write one log line for each generation request, once the request has ended.

[front]
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlx_worker.api.middleware.auth import key_name
from mlx_worker.api.middleware.request_ids import request_id, session_id
from mlx_worker.logs import Entry

if TYPE_CHECKING:
    from mlx_worker.api.request_record import RequestRecord

log = logging.getLogger(__name__)


def log_request(record: RequestRecord) -> None:
    """Write the line of a request that has ended, without a word of the request or its response."""
    prompt, first_token = record.prompt, record.seconds_to_first_token
    parting = prompt.parting if prompt else None
    entry = Entry(
        "request",
        request_id=request_id(record.request),
        session_id=session_id(record.request),
        key=key_name(record.request),
        path=record.request.path,
        dialect=record.dialect,
        model=record.model,
        status=record.status,
        outcome=record.outcome,
        error=record.error,
        joined=record.joined,
        warnings="; ".join(record.warnings),
        cache_hit=record.cache_hit,
        prompt_tokens=prompt.prompt if prompt else None,
        cached_tokens=prompt.cached if prompt else None,
        disk_tokens=prompt.disk if prompt else None,
        completion_tokens=record.completion_tokens,
        shared_tokens=parting.shared if parting else None,
        parted=parting.place if parting else None,
        dropped_lines=record.dropped_lines or None,
        ttft_ms=None if first_token is None else round(first_token * 1000, 1),
        total_ms=round(record.seconds * 1000, 1),
    )
    log.info(entry)
