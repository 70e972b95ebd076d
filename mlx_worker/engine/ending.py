"""The last message of a generation, made of its row and its text, also of a replayed one.

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


def replayed(sequence: Sequence, tokens: list[int]) -> Done | None:
    """Bring the text to where the former process left off. Done: the answer had ended there."""
    text = sequence.text
    assert text is not None
    ended = tokens[-1] in sequence.ends
    for token in tokens[: len(tokens) - ended]:
        text.add(token)
        if sequence.loop_guard is not None:
            sequence.loop_guard.add(token)
    if sequence.constraint is not None:
        sequence.constraint.replay(tokens)
        ended = ended or sequence.constraint.complete
    if not (text.stopped or ended or sequence.loops or sequence.max_tokens <= 0):
        return None
    return ending(sequence, text, "stop" if ended else "length")
