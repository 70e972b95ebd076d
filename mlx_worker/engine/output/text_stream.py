"""Token ids to the spans of an answer: content, reasoning and tool calls.

The detokenizer keeps characters whole across tokens. mlx_lm's text machine finds the markers
between spans, and holds back text that may still become a marker, so that no part of a marker
leaks. The spans depend on the request and on the tokens alone: the same tokens in another process
make the same spans, ids of tool calls included. [child]
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mlx_lm.generate import TextStateMachine

from mlx_worker.engine.output.content import Content
from mlx_worker.engine.output.markers import CALL, CONTENT, REASONING
from mlx_worker.engine.output.stop_strings import StopStrings
from mlx_worker.engine.output.tool_calls import MalformedCall, parse_calls
from mlx_worker.wire.output import FinishReason, InvalidToolCall, ReasoningText, Span, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlx_worker.engine.output.markers import Markers
    from mlx_worker.engine.output.tool_calls import ParsedToolCall
    from mlx_worker.wire.request import ChatRequest


class TextStream:
    """Release the answer of one sequence, span by span, as soon as each is certain.

    Stop strings end the content and are not looked for in reasoning or calls: they mean text that
    is shown. A call is released when complete, also where the request offered no tools: its markers
    would be no better as content. A stop string that is the text of a token ends the answer
    wherever the model generates that token.
    No stop string ends an answer that has not the least number of tokens that was asked for.
    `prompt` are the tokens that the answer follows.
    """

    def __init__(
        self,
        markers: Markers,
        request: ChatRequest,
        state: str = CONTENT,
        prompt: Sequence[int] = (),
    ) -> None:
        self._markers = markers
        self._request = request
        begins = request.prompt is None and request.opening == "turn"
        self._detokenizer = markers.detokenizer(None if begins else prompt)
        # What is answered to a raw prompt is text and nothing else.
        machine = markers.machine if request.prompt is None else None
        self._machine = machine.make_state(state) if machine else None
        self._state = state
        self._stops = StopStrings(request.stop, markers.added, markers.stripped)
        self._stop_token = ""
        self._content = Content(self._stops)
        self._content.may_stop = request.ends.min_tokens == 0
        self._tokens = 0
        self._call = ""
        self._calls = 0
        self.reasoning_tokens = 0

    @property
    def stop_string(self) -> str:
        """Return the stop string that ended the answer; "" where none did."""
        return self._content.stop_string or self._stop_token

    @property
    def in_content(self) -> bool:
        """True if the next text is content, as far as the tokens so far tell."""
        return self._state == CONTENT

    @property
    def stopped(self) -> bool:
        """True if a stop string or the only call that was asked for has ended the answer."""
        enough = self._request.one_call and self._calls > 0
        return bool(self._content.stopped or self._stop_token or enough)

    def finish_reason(self, natural: FinishReason) -> FinishReason:
        """Return why the answer ended, where `natural` says why the tokens ended."""
        stopped = self.stopped or natural == "stop"
        return "tool_calls" if stopped and self._calls else "stop" if stopped else natural

    def add(self, token: int) -> list[Span]:
        """Return the spans that this token released, empty content among them.

        Nothing may be added once `stopped`.
        """
        self.reasoning_tokens += self._state == REASONING
        self._tokens += 1
        self._content.may_stop = self._tokens > self._request.ends.min_tokens
        if token in self._stops.tokens and self._content.may_stop:
            released = self.finish("stop")
            self._stop_token = self._stops.tokens[token]
            return released
        if token in self._markers.stripped and self._state != CALL:
            marked = self._state == CONTENT
            return self._released(self._stops.placeholder(token) if marked else "")
        return self._released(self._detokenizer.add(token))

    def finish(self, natural: FinishReason) -> list[Span]:
        """Return the spans that were held back when the tokens ended; none once `stopped`."""
        if self.stopped:
            return []
        spans = self._released(self._detokenizer.finish())
        if self._machine is not None and not self.stopped:
            self._machine, rest, state = TextStateMachine.flush(self._machine)
            spans += self._spans_of([(state, rest)])
        if not self.stopped:
            spans += self._end_state(cut=natural == "length")
        return spans

    # --- inside ---

    def _released(self, text: str) -> list[Span]:
        if self._machine is None or not text:
            return [self._content.add(text)]
        *_, held_back = self._machine
        if not held_back and self._markers.starts.isdisjoint(text):
            return self._spans_of([(self._state, text)])  # nearly always: no marker begins
        self._machine, segments = TextStateMachine.split(self._machine, text)
        return self._spans_of(segments)

    def _spans_of(self, segments: Iterable[tuple[str, str]]) -> list[Span]:
        """Return segments of the text machine as spans: a change of state ends a span."""
        spans: list[Span] = []
        for state, text in segments:
            if state != self._state:
                spans += self._end_state(cut=False)
                self._state = state
                if state == CONTENT:
                    self._content.begin()
            if self.stopped:
                break
            if state == CONTENT:
                spans.append(self._content.add(text))
            elif state == REASONING and text:
                spans.append(ReasoningText(text))
            elif state == CALL:
                self._call += text
        return spans

    def _end_state(self, *, cut: bool) -> list[Span]:
        """Return what the end of a state releases. `cut`: the token limit ended the answer."""
        if self._state == CONTENT:
            return [self._content.end()]
        if self._state != CALL:
            return []
        text, self._call = self._call, ""
        if cut and self._markers.call_end:
            return [InvalidToolCall(text, "the tool call was cut short by the token limit")]
        try:
            calls = parse_calls(self._markers.parse_call, text, self._request.tools)
        except MalformedCall as error:
            return [InvalidToolCall(text, str(error))]
        return [self._with_id(call) for call in (calls[:1] if self._request.one_call else calls)]

    def _with_id(self, call: ParsedToolCall) -> ToolCall:
        """Return a call with an id of its own, which a replay of the tokens makes again."""
        made = hashlib.sha256(f"{self._calls} of {self._request!r}".encode()).hexdigest()
        self._calls += 1
        return ToolCall(call.id or f"call_{made[:24]}", call.name, call.arguments)
