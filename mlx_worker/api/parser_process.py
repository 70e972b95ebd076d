"""The process that parses large bodies: `python -m mlx_worker.api.parser_process`.

Frames on its standard input and output, eight bytes of length each: a function with its arguments
and a body, then what the function returned, packed, or why it did not. It ends when its input
does. [front]
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.api import chat, completions, messages, responses, tokens
from mlx_worker.api.packing import HEADER, Failure, in_packs
from mlx_worker.errors import WorkerError
from mlx_worker.titles import set_title

if TYPE_CHECKING:
    from typing import BinaryIO

NICENESS: Final = 10
"""Large bodies may take longer where the machine is busy: streams and health may not."""

LONGEST_MESSAGE: Final = 4096
"""Characters of a refusal: a large body may have a large value where a word should be."""

BEFOREHAND: Final = (chat, completions, messages, responses, tokens)
"""Imported before the first body comes."""


def main() -> None:
    """Answer until the front goes away."""
    set_title("parser")
    os.nice(NICENESS)
    # A parsed body is freed by its last reference; the collector would look through millions of
    # values again and again while they are made, which takes longer than making them.
    gc.disable()
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Whatever else may be printed is no frame.
    os.dup2(2, 1)
    while head := source.read(HEADER):
        asked = source.read(int.from_bytes(head, "big"))
        body = source.read(int.from_bytes(source.read(HEADER), "big"))
        answered(asked, body, sink)


def answered(asked: bytes, body: bytes, sink: BinaryIO) -> None:
    """Answer one question."""
    answer = pickle.dumps(result_of(asked, body), protocol=pickle.HIGHEST_PROTOCOL)
    sink.write(len(answer).to_bytes(HEADER, "big"))
    sink.write(answer)
    sink.flush()


def result_of(asked: bytes, body: bytes) -> Any:
    """Return what was asked for, packed, or why there is none."""
    try:
        parse, arguments = pickle.loads(asked)  # noqa: S301  (the front is its only author)
        return in_packs(parse(body, *arguments) if body else parse(*arguments))
    except WorkerError as error:
        message = error.message[:LONGEST_MESSAGE]
        param = error.param and error.param[:LONGEST_MESSAGE]
        return Failure(type(error)(message, param=param, retry_after=error.retry_after), "")
    except Exception as error:  # noqa: BLE001  (the front says so, and goes on)
        return Failure(None, type(error).__name__)


if __name__ == "__main__":
    main()
