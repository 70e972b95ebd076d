"""The process that parses large bodies: `python -m mlx_worker.api.parsing.parser_process`.

Questions come on its standard input, answers go to its standard output (`parser_frames`). The
process ends when its input does, which is when the front ends, and where a frame is no question.
[front]
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below, which take a processor for 0.3 s
    from mlx_worker.system.priority import lower_priority

    lower_priority()

import contextlib
import gc
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.api.parsing import parser_frames
from mlx_worker.api.parsing.body_kinds import Ask, parse
from mlx_worker.errors import ProtocolViolation, WorkerError
from mlx_worker.system.process_titles import set_title

if TYPE_CHECKING:
    from typing import BinaryIO

NO_QUESTION: Final = 65
"""Exit code where the input is no question, as of commands whose data is wrong."""


def main() -> None:
    """Answer until the front goes away."""
    set_title("parser")
    # A parsed body is freed by its last reference; the collector would look through millions of
    # values again and again while they are made, which takes longer than making them.
    gc.disable()
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Whatever else may be printed is no frame.
    os.dup2(2, 1)
    try:
        while (asked := parser_frames.read_frame(source)) is not None:
            answer_question(asked, parser_frames.read_frame(source) or b"", sink)
    except ProtocolViolation:
        sys.exit(NO_QUESTION)
    except BrokenPipeError:  # the front ended while a body was parsed
        with contextlib.suppress(BrokenPipeError):
            sink.close()


def answer_question(asked: bytes, body: bytes, sink: BinaryIO) -> None:
    """Write the answer to one question. Raises ProtocolViolation where there is no question."""
    answer = parser_frames.encode(answer_to(parser_frames.question_in(asked), body))
    sink.write(parser_frames.header_of(answer))
    sink.write(answer)
    sink.flush()


def answer_to(question: parser_frames.Question, body: bytes) -> parser_frames.AnyAnswer:
    """Return what was asked for, packed, or why there is none."""
    try:
        ask: Ask[Any] = question.ask
        return parser_frames.answer_of(parse(ask, body, question.models))
    except WorkerError as error:
        return parser_frames.refusal_of(error)
    except Exception as error:  # noqa: BLE001  (the front says so, and goes on)
        return parser_frames.Failed(type(error).__name__)


if __name__ == "__main__":
    main()
