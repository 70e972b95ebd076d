"""What `POST /v1/responses` answers: one response object, or the events that make it.

An answer is items in the order they were said: reasoning, messages, function calls. Streamed or
not, they are made by the same hand, so that both answers are one. Beyond OpenAI's fields: `seed`,
which makes the same answer again, and `warnings`, why a call is in a message. [front]
"""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlx_worker.api.dialects.base import COMMENT
from mlx_worker.api.dialects.responses.calls import form_of
from mlx_worker.api.dialects.sse_event import event
from mlx_worker.api.dialects.token_logprobs import ContentLogprobs
from mlx_worker.json_output import encode
from mlx_worker.wire.output import InvalidToolCall, Notice, ReasoningText, ToolCall, visible_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlx_worker.api.dialects.base import Usage, Whole
    from mlx_worker.api.dialects.responses.request import ReasoningAs, ResponsesCall
    from mlx_worker.errors import WorkerError
    from mlx_worker.supervisor.requests.generation import FinishInfo
    from mlx_worker.supervisor.requests.output_buffer import OutputDelta
    from mlx_worker.wire.output import Span


class _Kind(NamedTuple):
    """How an item of text is called, and where in it the text is.

    `text` and `part` name its events, `list` is the field with its one part, which is of `type`.
    """

    id: str
    text: str
    part: str
    list: str
    type: str
    item: dict[str, Any]
    in_part: dict[str, Any]
    tells_logprobs: bool = False

    def logprobs(self, told: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return these tokens as a field, where this kind of text has one."""
        return {"logprobs": told} if self.tells_logprobs else {}


_MESSAGE = _Kind(
    "msg",
    "output_text",
    "content_part",
    "content",
    "output_text",
    {"type": "message", "role": "assistant"},
    {"annotations": []},
    tells_logprobs=True,
)
_REASONING = _Kind(
    "rs",
    "reasoning_text",
    "content_part",
    "content",
    "reasoning_text",
    {"type": "reasoning", "summary": []},
    {},
)
# Whoever asks for a summary looks nowhere else for reasoning: it is given there, in full.
_SUMMARY = _Kind(
    "rs",
    "reasoning_summary_text",
    "reasoning_summary_part",
    "summary",
    "summary_text",
    {"type": "reasoning"},
    {},
)


_Kinds = tuple[_Kind, ...]
"""How an item's text is told: once, or in two places of the item."""

_SAYS: Final[_Kinds] = (_MESSAGE,)
_THINKS: Final[Mapping[ReasoningAs, _Kinds]] = {
    "text": (_REASONING,),
    "summary": (_SUMMARY,),
    "both": (_SUMMARY, _REASONING),
}


@dataclass(slots=True)
class _Open:
    """An item of text that goes on."""

    kinds: _Kinds
    id: str
    said: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def part(self, kind: _Kind) -> dict[str, Any]:
        part = {"type": kind.type, "text": "".join(self.said)} | kind.in_part
        return part | kind.logprobs(self.logprobs)

    def item(self, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self.id}
        for kind in self.kinds:
            item |= kind.item
        item["status"] = status
        for kind in self.kinds:
            item[kind.list] = [] if status == "in_progress" else [self.part(kind)]
        return item


class ResponsesReply:
    """One response being written."""

    def __init__(self, call: ResponsesCall, model: str, created: int, _fingerprint: str) -> None:
        self._head = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": created,
            "model": model,
            **call.repeated,
            "background": False,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "seed": call.seed,
        }
        self._thinks = _THINKS[call.reasoning_as]
        self._numbers = itertools.count()
        self._output: list[dict[str, Any]] = []
        self._open: _Open | None = None
        self._warnings = [*call.warnings]
        self._renamed = call.renamed
        self._logprobs = ContentLogprobs()

    def opening(self, _usage: Usage) -> bytes:
        """The response, of which nothing is said yet."""
        response = self._response("in_progress")
        return b"".join(
            self._written({"type": kind, "response": response})
            for kind in ("response.created", "response.in_progress")
        )

    def sign(self) -> bytes:
        """A comment."""
        return COMMENT

    def piece(self, piece: OutputDelta, _choice: int) -> bytes:
        """Events of items that begin, go on and end."""
        self._logprobs.add(piece.logprobs)
        told = (said for span in piece.all_spans for said in self._take(span))
        return b"".join(map(self._written, told))

    def closing(self, endings: Sequence[FinishInfo], usage: Usage) -> bytes:
        """The end of the last item, and the whole response."""
        (ending,) = endings
        status = _status(ending)
        told = [*self._close(status, is_last=True)]
        told.append(
            {"type": f"response.{status}", "response": self._response(status, usage)},
        )
        return b"".join(map(self._written, told))

    def broken(self, error: WorkerError) -> bytes:
        """An error event; without code and number, client libraries would drop it in silence."""
        told = {"code": error.code, "message": error.message, "param": error.param}
        return self._written({"type": "error"} | told)

    def whole(self, choices: Sequence[Whole], usage: Usage) -> bytes:
        """The response object."""
        ((piece, ending),) = choices
        status = _status(ending)
        self._logprobs.add(piece.logprobs)
        for span in piece.all_spans:
            _exhaust(self._take(span))
        _exhaust(self._close(status, is_last=True))
        return encode(self._response(status, usage))

    # --- items ---

    def _take(self, span: Span) -> Iterator[dict[str, Any]]:
        match span:
            case ToolCall():
                yield from self._close("completed")
                yield from self._call(span)
            case ReasoningText():
                yield from self._say(self._thinks, span.text)
            case Notice():
                self._warnings.append(span.problem)
            case _:
                if isinstance(span, InvalidToolCall):
                    self._warnings.append(span.problem)
                yield from self._say(_SAYS, visible_text(span))

    def _say(self, kinds: _Kinds, text: str) -> Iterator[dict[str, Any]]:
        if self._open is None or self._open.kinds is not kinds:
            yield from self._close("completed")
            self._open = opened = _Open(kinds, _made_id(kinds[0].id))
            yield self._of_item("added", opened.item("in_progress"))
            for kind in kinds:
                yield self._in_part(kind, f"{kind.part}.added", part=opened.part(kind))
        self._open.said.append(text)
        logprobs = self._logprobs.of(text) if kinds is _SAYS else []
        self._open.logprobs += logprobs
        for kind in kinds:
            delta = self._in_part(kind, f"{kind.text}.delta", delta=text)
            yield delta | kind.logprobs(logprobs)

    def _close(self, status: str, *, is_last: bool = False) -> Iterator[dict[str, Any]]:
        if self._open is None:
            return
        if is_last and self._open.kinds is _SAYS:
            self._open.logprobs += self._logprobs.rest()
        for kind in self._open.kinds:
            part = self._open.part(kind)
            done = self._in_part(kind, f"{kind.text}.done", text=part["text"])
            yield done | kind.logprobs(self._open.logprobs)
            yield self._in_part(kind, f"{kind.part}.done", part=part)
        yield from self._end(self._open.item(status))
        self._open = None

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        form = form_of(call, self._renamed.get(call.name))
        item = {
            "id": _made_id(form.id),
            "type": form.type,
            "status": "in_progress",
            "call_id": call.id,
            **form.names,
            form.field: "",
        }
        at = {"item_id": item["id"], "output_index": len(self._output)}
        kind = f"response.{form.event}"
        yield self._of_item("added", item)
        yield {"type": f"{kind}.delta", **at, "delta": form.text}
        yield {"type": f"{kind}.done", **at, **form.names, form.field: form.text}
        yield from self._end(item | {"status": "completed", form.field: form.text})

    def _end(self, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield self._of_item("done", item)
        self._output.append(item)

    # --- events ---

    def _of_item(self, what: str, item: dict[str, Any]) -> dict[str, Any]:
        kind = f"response.output_item.{what}"
        return {"type": kind, "output_index": len(self._output), "item": item}

    def _in_part(self, kind: _Kind, what: str, **more: Any) -> dict[str, Any]:
        assert self._open is not None
        at = {"item_id": self._open.id, "output_index": len(self._output)}
        return {"type": f"response.{what}", **at, f"{kind.list}_index": 0, **more}

    def _written(self, told: dict[str, Any]) -> bytes:
        return event(told | {"sequence_number": next(self._numbers)})

    def _response(self, status: str, usage: Usage | None = None) -> dict[str, Any]:
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        response = self._head | {
            "status": status,
            "error": None,
            "incomplete_details": cut,
            "output": self._output,
            "usage": None if usage is None else _usage(usage),
        }
        return response | ({"warnings": self._warnings} if self._warnings else {})


def _status(ending: FinishInfo) -> str:
    return "incomplete" if ending.finish == "length" else "completed"


def _made_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(16)}"


def _exhaust(told: Iterator[dict[str, Any]]) -> None:
    for _ in told:
        pass


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }
