"""Serve responses that outlive their request: read one by its id, or cancel one.

A response is found as long as it runs or is kept, by clients of the API key that made it.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.api.generation.lingering.serving import join, response_object
from mlx_worker.api.generation.lingering.table import RECORDED_REQUESTS
from mlx_worker.api.middleware.auth import key_name
from mlx_worker.errors import InvalidRequest, ResponseNotFound

if TYPE_CHECKING:
    from aiohttp import web

    from mlx_worker.api.generation.lingering.recorded_request import RecordedRequest

BOOLEANS: Final = {"": False, "false": False, "true": True}

EVENT: Final = b"event:"
END_OF_EVENT: Final = b"\n\n"

MAX_DIGITS: Final = 9
"""Digits of a sequence number: no response has as many events."""


async def retrieve(request: web.Request) -> web.StreamResponse:
    """Serve `GET /v1/responses/{id}`: the object, or with `stream=true` the events."""
    recorded = _find(request)
    if request.method == "HEAD" or not _is_streamed(request):
        return response_object(request, recorded)
    if recorded.object is None or not recorded.object.is_streamed:
        raise InvalidRequest(
            "stream: only a response that was made with `stream: true` has events", param="stream"
        )
    return await join(request, recorded, SkippedEvents(_first_event(request)))


async def cancel(request: web.Request) -> web.StreamResponse:
    """Serve `POST /v1/responses/{id}/cancel`: end a response that is made in the background."""
    recorded = _find(request)
    if not recorded.is_background:
        raise InvalidRequest(
            "only a response that was made with `background: true` can be cancelled; any other"
            " ends when its client leaves"
        )
    recorded.cancel_for_client()
    return response_object(request, recorded)


def _find(request: web.Request) -> RecordedRequest:
    id_ = request.match_info["id"]
    recorded = request.app[RECORDED_REQUESTS].find_response(key_name(request), id_)
    if recorded is None:
        raise ResponseNotFound(
            f"no response with id {id_!r} runs or is kept for this API key; a response made with"
            " `background: true` is kept for `linger_background` seconds after its end",
            param="id",
        )
    return recorded


def _is_streamed(request: web.Request) -> bool:
    value = request.query.get("stream", "").lower()
    if value not in BOOLEANS:
        raise InvalidRequest("stream: must be true or false", param="stream")
    return BOOLEANS[value]


def _first_event(request: web.Request) -> int:
    """Return the sequence number of the first event that the client wants."""
    value = request.query.get("starting_after")
    if value is None:
        return 0
    if not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
        raise InvalidRequest(
            "starting_after: must be the sequence_number of an event", param="starting_after"
        )
    return int(value) + 1


class SkippedEvents:
    """Leaves out the first events of a stream; their sequence numbers begin at 0."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, data: bytes) -> bytes:
        """Return what the client wants of the next whole events."""
        begin = 0
        while self._number and begin < len(data):
            end = data.index(END_OF_EVENT, begin) + len(END_OF_EVENT)
            self._number -= data.startswith(EVENT, begin)
            begin = end
        return data[begin:] if begin else data
