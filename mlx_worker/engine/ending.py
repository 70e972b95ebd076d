"""The last message of a generation, made of its row and its text.

[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_worker.wire.output import Done, FinishReason, Notice

if TYPE_CHECKING:
    from mlx_worker.engine.output.text_stream import TextStream
    from mlx_worker.engine.sequence import Sequence


def ending(sequence: Sequence, text: TextStream, natural: FinishReason) -> Done:
    """Return the end of a generation, where `natural` says why the tokens ended."""
    spans = text.finish(natural)
    finish = text.finish_reason(natural)
    notices, period, guard = sequence.notices, 0, sequence.loop_guard
    if finish == "length" and guard is not None and guard.period:
        notices, period = [*notices, guard.notice], guard.period
    drafter = sequence.sampler.drafter if sequence.sampler else None
    return Done.of(
        sequence.id,
        finish,
        sequence.produced,
        [*spans, *map(Notice, notices)],
        stop_string=text.stop_string,
        reasoning_tokens=text.reasoning_tokens,
        context_full=finish == "length" and sequence.fills_context and not period,
        loop_period=period,
        accepted_prediction_tokens=drafter.accepted_predicted if drafter else 0,
        rejected_prediction_tokens=drafter.rejected_predicted if drafter else 0,
    )
