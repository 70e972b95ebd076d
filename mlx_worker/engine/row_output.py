"""What one token of a row gives: its text and its log-probabilities.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_worker.engine.output.logprobs import read_logprobs
from mlx_worker.wire.output import RowOutput, TokenLogprobs

if TYPE_CHECKING:
    from mlx_worker.engine.output.markers import Markers
    from mlx_worker.engine.sequence import Sequence


def row_output(sequence: Sequence, response: Any, markers: Markers, stream: mx.Stream) -> RowOutput:
    """Add the token of a response of mlx_lm to its sequence, and return what the front gets."""
    sequence.produced += 1
    token = int(response.token)
    sequence.sampled.append(token)
    text = sequence.text
    assert text is not None
    was_content = text.in_content
    ended = response.finish_reason == "stop"
    spans = [] if ended else text.add(token)
    if sequence.loop_guard is not None and not ended:
        sequence.loop_guard.add(token)
    logprobs: list[TokenLogprobs] = []
    if sequence.logprobs is not None and not ended:
        is_content = was_content and text.in_content  # else the token may be part of a marker
        with mx.stream(stream):
            read = read_logprobs(
                markers, response.logprobs, response.token, sequence.logprobs, is_content=is_content
            )
        logprobs.append(read)
    return RowOutput.of(sequence.id, [token], spans, logprobs)
