"""Tell how far a response of the Responses dialect is, as the object that its client may ask for.

Until its end, a response has no output in the object: a client that wants output as it comes reads
the events. The request itself is only kept until the end.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mlx_worker.api.dialects.responses.request import ResponsesGenerationRequest
from mlx_worker.api.dialects.responses.response import ResponsesWriter
from mlx_worker.api.metrics.request_table import live_state
from mlx_worker.errors import WorkerError

if TYPE_CHECKING:
    from mlx_worker.api.dialects.base import GenerationRequest, ResponseInfo
    from mlx_worker.api.generation.lingering.recording import Recording
    from mlx_worker.api.request_record import LiveRequest

EVENT_DATA = b"\ndata: "


class _LastEvent(msgspec.Struct, frozen=True):
    """The last event of a stream: of a whole response, or an error."""

    response: msgspec.Raw = msgspec.Raw()
    code: str = ""
    message: str = ""


class ResponseObject:
    """The object of one response. `is_cancelled` is set when its client cancels the response."""

    def __init__(self, request: ResponsesGenerationRequest, info: ResponseInfo) -> None:
        self.is_background = request.background
        self.is_streamed = request.stream
        self.is_cancelled = False
        self._writer: ResponsesWriter | None = ResponsesWriter(request, info)
        self._final = b""

    @classmethod
    def of(cls, request: GenerationRequest, info: ResponseInfo) -> ResponseObject | None:
        """Return the object of a request's response; None in other dialects."""
        if not isinstance(request, ResponsesGenerationRequest):
            return None
        return cls(request, info)

    def as_json(self, live: LiveRequest | None) -> bytes:
        """Return the object as of now; `live` is the request, None at its end."""
        if self._writer is None:
            return self._final
        if self.is_cancelled:
            return self._writer.snapshot("cancelled")
        is_queued = live is not None and live_state(live.snapshot().generations) == "waiting"
        return self._writer.snapshot("queued" if is_queued else "in_progress")

    def finish(self, recording: Recording) -> None:
        """Keep the object of a response that has ended, and no more of the request."""
        assert self._writer is not None, "a response ends once"
        self._final, self._writer = self._final_object(recording, self._writer), None

    def _final_object(self, recording: Recording, writer: ResponsesWriter) -> bytes:
        if self.is_cancelled:
            return writer.snapshot("cancelled")
        if recording.error is not None:
            error = recording.error
            known = error if isinstance(error, WorkerError) else WorkerError("unexpected error")
            return writer.snapshot("failed", _detail(known.code, known.message))
        if not recording.is_stream:
            return recording.last_chunk
        _, _, data = recording.last_chunk.rpartition(EVENT_DATA)
        event = msgspec.json.decode(data, type=_LastEvent)
        if event.response:
            return bytes(event.response)
        return writer.snapshot("failed", _detail(event.code, event.message))


def _detail(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message}
