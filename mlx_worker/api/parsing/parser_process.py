"""Parse large bodies in a process: `python -m mlx_worker.api.parsing.parser_process`.

Questions come on standard input, answers go to standard output (`parser_frames`). The process ends
when its input ends, which is when the front ends, and at a frame that is no question.
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
from mlx_worker.api.parsing.body_kinds import BodyKind, parse
from mlx_worker.errors import ProtocolViolation, WorkerError
from mlx_worker.system.process_titles import set_title

if TYPE_CHECKING:
    from typing import BinaryIO

NO_QUESTION: Final = 65
"""Exit code if the input is no question: `EX_DATAERR` of sysexits.h."""


def main() -> None:
    """Answer questions until the front ends."""
    set_title("parser")
    # A parsed body is freed by its last reference; the collector would walk through millions of
    # values again and again while they are made, which takes longer than making them.
    gc.disable()
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Anything else that is printed must not look like a frame: send it to standard error.
    os.dup2(2, 1)
    try:
        while (question := parser_frames.read_frame(source)) is not None:
            answer_question(question, parser_frames.read_frame(source) or b"", sink)
    except ProtocolViolation:
        sys.exit(NO_QUESTION)
    except BrokenPipeError:  # the front ended while a body was parsed
        with contextlib.suppress(BrokenPipeError):
            sink.close()


def answer_question(question: bytes, body: bytes, sink: BinaryIO) -> None:
    """Write the answer to one question. Raises ProtocolViolation where there is no question."""
    answer = parser_frames.encode(parse_in_process(parser_frames.decode_question(question), body))
    sink.write(parser_frames.frame_header(answer))
    sink.write(answer)
    sink.flush()


def parse_in_process(
    question: parser_frames.ParsingQuestion, body: bytes
) -> parser_frames.AnyParsingAnswer:
    """Return the packed result of parsing a body, or its refusal, as an answer."""
    try:
        kind: BodyKind[Any] = question.kind
        return parser_frames.answer_for(parse(kind, body, question.models))
    except WorkerError as error:
        return parser_frames.BodyRefused.of(error)
    except Exception as error:  # noqa: BLE001  (the front reports the error, and continues)
        return parser_frames.ParsingFailed(type(error).__name__)


if __name__ == "__main__":
    main()
