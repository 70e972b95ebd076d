"""The content of an answer: what a reader is meant to see, up to the first stop string.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_lm.generate import TextStateMachine

if TYPE_CHECKING:
    from mlx_worker.engine.output.stop_strings import StopStrings

_GOES_ON = "goes on"


class Content:
    """Release content, in stretches between reasoning and calls, as soon as the text is certain.

    mlx_lm's text machine finds stop strings across tokens and holds back what may still become
    one. Whitespace that follows another span is held until more text follows: before content the
    whitespace is content, before anything else only the format's layout, which is dropped. Stop
    strings are not looked for in such whitespace, or a blank line would end an answer that has not
    begun.
    While `may_stop` is false, a stop string is text like any other.
    """

    def __init__(self, stops: StopStrings) -> None:
        self._stops = stops
        # Each stop string leads to a state of its own name, from which nothing leads on.
        words = stops.watched
        edges = {_GOES_ON: [(word, f"={word}") for word in words]}
        self._fresh = self._watch = (
            TextStateMachine(edges | {f"={word}": [] for word in words}).make_state(_GOES_ON)
            if words
            else None
        )
        self._layout: str | None = None
        self.may_stop = True
        self.stop_string: str | None = None

    @property
    def stopped(self) -> bool:
        """True if a stop string has come."""
        return self.stop_string is not None

    def add(self, text: str) -> str:
        """Return the content that this text released; set `stop_string` if a stop string comes."""
        if self._layout is None:
            return self._watched(text)
        text = self._layout + text
        content = text.lstrip()
        if not content:
            self._layout = text
            return ""
        self._layout = None
        return text[: len(text) - len(content)] + self._watched(content)

    def begin(self) -> None:
        """Begin a stretch after another span."""
        self._layout = ""

    def end(self) -> str:
        """End a stretch; return what was held back, without layout."""
        self._layout = None
        if self._watch is None or self.stopped:
            return ""
        self._watch, rest, _ = TextStateMachine.flush(self._watch)
        return self._stops.shown(str(rest))

    def _watched(self, text: str) -> str:
        if self._watch is None or not text:
            return text
        released = ""
        while True:
            self._watch, segments = TextStateMachine.split(self._watch, text)
            released += "".join(piece for state, piece in segments if state == _GOES_ON)
            state = str(segments[-1][0])
            if state == _GOES_ON:
                break
            word = state.removeprefix("=")
            if self.may_stop:
                self.stop_string = self._stops.watched[word]
                break
            released += word
            text = "".join(piece for state, piece in segments if state != _GOES_ON)
            self._watch = self._fresh
        return self._stops.shown(released)
