"""Write the answers of `POST /v1/responses`: one response object, or the events that make it.

An answer is items in the order of the output: reasoning, messages, function calls. Streamed or
not, the same code makes them, so that both answers are equal. Beyond OpenAI's fields: `seed`, which
makes the same answer again, `warnings`, why a call is in a message, and `loop`, if the answer was
ended because it repeats itself.

[front]
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlx_worker.api.dialects.base import loop_field, sse_event
from mlx_worker.api.dialects.responses.calls import call_item_format
from mlx_worker.api.dialects.responses.ids import new_id, new_response_id
from mlx_worker.api.dialects.token_logprobs import ContentLogprobs
from mlx_worker.json_output import encode
from mlx_worker.wire.output import InvalidToolCall, Notice, ReasoningText, ToolCall, visible_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_worker.api.dialects.base import FinishedChoice, ResponseInfo, Usage
    from mlx_worker.api.dialects.responses.request import ResponsesGenerationRequest
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.requests.generation import FinishInfo
    from mlx_worker.supervisor.requests.output_buffer import OutputDelta
    from mlx_worker.wire.output import Span


class _TextKind(NamedTuple):
    """The names in an item of text, and the place of the text in it.

    `text` and `part` name its events, `list` is the field with its one part, which is of `type`.
    """

    id_prefix: str
    text: str
    part: str
    list: str
    type: str
    item: dict[str, Any]
    other_keys: dict[str, Any]
    has_logprobs: bool = False

    def logprobs_field(self, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return these tokens as a field, if this kind of text has one."""
        return {"logprobs": logprobs} if self.has_logprobs else {}


_MESSAGE = _TextKind(
    "msg",
    "output_text",
    "content_part",
    "content",
    "output_text",
    {"type": "message", "role": "assistant"},
    {"annotations": []},
    has_logprobs=True,
)
_REASONING = _TextKind(
    "rs",
    "reasoning_text",
    "content_part",
    "content",
    "reasoning_text",
    {"type": "reasoning", "summary": []},
    {},
)
# A client that asks for a summary reads reasoning nowhere else: it is in the summary, in full.
_SUMMARY = _TextKind(
    "rs",
    "reasoning_summary_text",
    "reasoning_summary_part",
    "summary",
    "summary_text",
    {"type": "reasoning"},
    {},
)


_TextKinds = tuple[_TextKind, ...]
"""The places of an item's text in the item: one, or two."""

_MESSAGE_KINDS: Final[_TextKinds] = (_MESSAGE,)


@dataclass(slots=True)
class _OpenItem:
    """An item of text that is not complete."""

    kinds: _TextKinds
    id: str
    texts: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def part(self, kind: _TextKind) -> dict[str, Any]:
        part = {"type": kind.type, "text": "".join(self.texts)} | kind.other_keys
        return part | kind.logprobs_field(self.logprobs)

    def item(self, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self.id}
        for kind in self.kinds:
            item |= kind.item
        item["status"] = status
        for kind in self.kinds:
            item[kind.list] = [] if status == "in_progress" else [self.part(kind)]
        return item


class ResponsesWriter:
    """Writes one response."""

    def __init__(self, request: ResponsesGenerationRequest, info: ResponseInfo) -> None:
        self._head = {
            "id": info.response_id or new_response_id(),
            "object": "response",
            "created_at": info.created,
            "model": info.model,
            **request.repeated,
            "background": request.background,
            "previous_response_id": None,
            "store": request.background,
            "truncation": "disabled",
            "seed": request.seed,
        }
        self._reasoning_kinds = _reasoning_kinds(request, info)
        self._sequence_numbers = itertools.count()
        self._output: list[dict[str, Any]] = []
        self._open: _OpenItem | None = None
        self._warnings = [*request.warnings]
        self._renamed = request.renamed
        self._logprobs = ContentLogprobs()

    def start(self, _usage: Usage) -> bytes:
        """Return the start of the response, without output."""
        response = self._response("in_progress")
        return b"".join(
            self._numbered_event({"type": kind, "response": response})
            for kind in ("response.created", "response.in_progress")
        )

    def identify(self, _fingerprint: str) -> None:
        """Do nothing: responses name no process."""

    def keepalive(self) -> bytes:
        """Return the response as it is now."""
        response = self._response("in_progress")
        return self._numbered_event({"type": "response.in_progress", "response": response})

    def delta(self, output: OutputDelta, _choice: int) -> bytes:
        """Return events of items that start, continue and end."""
        self._logprobs.add(output.logprobs)
        events = (event for span in output.spans for event in self._add_span(span))
        return b"".join(map(self._numbered_event, events))

    def finish(self, endings: Sequence[FinishInfo], usage: Usage) -> bytes:
        """Return the end of the last item, and the whole response."""
        (ending,) = endings
        status = _status(ending)
        events = [*self._close_item(status, is_last=True)]
        events.append(
            {
                "type": f"response.{status}",
                "response": self._response(status, usage) | loop_field(ending),
            },
        )
        return b"".join(map(self._numbered_event, events))

    def error(self, error: WorkerError) -> bytes:
        """Return an error event; without code and number, client libraries would ignore it."""
        detail = {"code": error.code, "message": error.message, "param": error.param}
        return self._numbered_event({"type": "error"} | detail)

    def full_response(self, choices: Sequence[FinishedChoice], usage: Usage) -> bytes:
        """Return the response object."""
        ((output, ending),) = choices
        status = _status(ending)
        self._logprobs.add(output.logprobs)
        for span in output.spans:
            _exhaust(self._add_span(span))
        _exhaust(self._close_item(status, is_last=True))
        return encode(self._response(status, usage) | loop_field(ending))

    def snapshot(self, status: str, error: dict[str, Any] | None = None) -> bytes:
        """Return a response object without output, in another state than a finished one."""
        return encode(self._response(status) | {"error": error})

    # --- items ---

    def _add_span(self, span: Span) -> Iterator[dict[str, Any]]:
        match span:
            case ToolCall():
                yield from self._close_item("completed")
                yield from self._add_call(span)
            case ReasoningText():
                yield from self._add_text(self._reasoning_kinds, span.text)
            case Notice():
                self._warnings.append(span.problem)
            case _:
                if isinstance(span, InvalidToolCall):
                    self._warnings.append(span.problem)
                yield from self._add_text(_MESSAGE_KINDS, visible_text(span))

    def _add_text(self, kinds: _TextKinds, text: str) -> Iterator[dict[str, Any]]:
        if self._open is None or self._open.kinds is not kinds:
            yield from self._close_item("completed")
            self._open = opened = _OpenItem(kinds, new_id(kinds[0].id_prefix))
            yield self._item_event("added", opened.item("in_progress"))
            for kind in kinds:
                yield self._part_event(kind, f"{kind.part}.added", part=opened.part(kind))
        self._open.texts.append(text)
        logprobs = self._logprobs.take_for(text) if kinds is _MESSAGE_KINDS else []
        self._open.logprobs += logprobs
        for kind in kinds:
            delta = self._part_event(kind, f"{kind.text}.delta", delta=text)
            yield delta | kind.logprobs_field(logprobs)

    def _close_item(self, status: str, *, is_last: bool = False) -> Iterator[dict[str, Any]]:
        if self._open is None:
            return
        if is_last and self._open.kinds is _MESSAGE_KINDS:
            self._open.logprobs += self._logprobs.take_rest()
        for kind in self._open.kinds:
            part = self._open.part(kind)
            done = self._part_event(kind, f"{kind.text}.done", text=part["text"])
            yield done | kind.logprobs_field(self._open.logprobs)
            yield self._part_event(kind, f"{kind.part}.done", part=part)
        yield from self._end_item(self._open.item(status))
        self._open = None

    def _add_call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        form = call_item_format(call, self._renamed.get(call.name))
        item = {
            "id": new_id(form.id_prefix),
            "type": form.type,
            "status": "in_progress",
            "call_id": call.id,
            **form.names,
            form.field: "",
        }
        at = {"item_id": item["id"], "output_index": len(self._output)}
        kind = f"response.{form.event}"
        yield self._item_event("added", item)
        yield {"type": f"{kind}.delta", **at, "delta": form.text}
        yield {"type": f"{kind}.done", **at, **form.names, form.field: form.text}
        yield from self._end_item(item | {"status": "completed", form.field: form.text})

    def _end_item(self, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield self._item_event("done", item)
        self._output.append(item)

    # --- events ---

    def _item_event(self, name: str, item: dict[str, Any]) -> dict[str, Any]:
        kind = f"response.output_item.{name}"
        return {"type": kind, "output_index": len(self._output), "item": item}

    def _part_event(self, kind: _TextKind, name: str, **fields: Any) -> dict[str, Any]:
        assert self._open is not None
        at = {"item_id": self._open.id, "output_index": len(self._output)}
        return {"type": f"response.{name}", **at, f"{kind.list}_index": 0, **fields}

    def _numbered_event(self, event: dict[str, Any]) -> bytes:
        return sse_event(event | {"sequence_number": next(self._sequence_numbers)})

    def _response(self, status: str, usage: Usage | None = None) -> dict[str, Any]:
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        response = self._head | {
            "status": status,
            "error": None,
            "incomplete_details": incomplete,
            "output": self._output,
            "usage": None if usage is None else _usage(usage),
        }
        return response | ({"warnings": self._warnings} if self._warnings else {})


def _reasoning_kinds(request: ResponsesGenerationRequest, info: ResponseInfo) -> _TextKinds:
    """Return the places of reasoning: a summary if asked for, or beside the text for all."""
    if request.wants_summary:
        return (_SUMMARY,)
    return (_SUMMARY, _REASONING) if info.reasoning_summaries == "always" else (_REASONING,)


def _status(ending: FinishInfo) -> str:
    return "incomplete" if ending.finish == "length" else "completed"


def _exhaust(events: Iterator[dict[str, Any]]) -> None:
    for _ in events:
        pass


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, **usage.session_field},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }
