"""What every architecture goes through: each answer is compared with mlx_lm's own, alone.

Tokens must be equal. So must the log-probabilities, within `ROUNDING`: padding that runs through a
state often moves these before another token comes of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import mlx_lm
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.engine.batch_support import unbatched_because
from mlx_worker.engine.engine import Engine
from mlx_worker.engine.speculation.ladder import are_cuttable
from mlx_worker.wire.output import Done
from mlx_worker.wire.request import Sampling
from tests.drafting_harness import FREE, with_mistakes
from tests.fidelity.reference import Ask
from tests.fidelity.scenarios import Row, Stage, tokens

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.engine.prompt import Prompt
    from tests.fidelity.reference import Model

ROUNDING: Final = 1e-3
"""Of a log-probability in float32; what is measured stays a hundred times below."""

CHUNK: Final = 16
LENGTHS: Final = (40, 3, 21, 55, 1, 17, 33, 8)
"""Tokens of eight prompts: below, at and above a window and a chunk."""


def asks(salt: int, head: int = 0) -> list[Ask]:
    """Eight requests of unequal lengths, every other one sampled, that share `head` tokens."""
    shared = tokens(salt, -1, head)
    return [
        Ask(
            shared + tokens(salt, number, length),
            head,
            max_tokens=4 + 2 * number,
            sampling=Sampling(seed=number, temperature=float(number % 2)),
            logprobs=0,
        )
        for number, length in enumerate(LENGTHS)
    ]


def in_a_batch(model: Model) -> list[str]:
    """Eight that join two steps apart and leave when they are done, one of them cancelled."""
    stage = Stage(model)
    stage.set_chunk_size(CHUNK)
    for number, ask in enumerate(asks(1)):
        stage.admit(ask)
        stage.step()
        stage.step()
        if number == len(LENGTHS) // 2 and stage.running:
            stage.cancel(stage.running[0])
    stage.finish()
    return mistakes(model, stage.rows)


def on_a_resident_prefix(model: Model) -> list[str]:
    """A warmed system prompt, then requests behind it, one after the other."""
    stage = Stage(model)
    requests = asks(2, head=37)[:3]
    stage.warm(requests[0].prompt[:37])
    stage.finish()
    for ask in requests:
        row = stage.admit(ask)
        stage.finish()
        if row.started is None or row.started.cached_tokens < 37:
            return [f"the warmed prefix was not found: {row.started}"]
    return mistakes(model, stage.rows)


def after_a_replay(model: Model) -> list[str]:
    """New engines that are given the first tokens of an answer."""
    wrong: list[str] = []
    for ask in asks(3)[2:4]:
        said = model.answer(ask).tokens
        for count in {1, len(said) // 2, len(said) - 1} - {0, len(said)}:
            stage = Stage(model)
            stage.resume(ask, said[:count])
            stage.finish()
            wrong += mistakes(model, stage.rows)
    return wrong


class DraftingStage(Stage):
    """An engine whose rows draft their own answers wherever they can."""

    def _new_engine(self, concurrency: int) -> Engine:
        model = self.model
        return Engine(
            model.model,
            model.tokenizer,
            context_length=8192,
            max_concurrency=concurrency,
            ladder=FREE,
        )

    def _prompt_of(self, ask: Ask) -> Prompt:
        answer = self.model.answer(ask).tokens
        prediction = with_mistakes(answer, len(answer), share=0.1)
        return replace(super()._prompt_of(ask), prediction=prediction)


def with_drafts(model: Model) -> list[str]:
    """Eight that draft, of unequal lengths, if rows of this model may draft at all."""
    if unbatched_because(model.model) or not are_cuttable(make_prompt_cache(model.model)):
        return []
    stage = DraftingStage(model)
    for ask in asks(6):
        stage.admit(ask)
    stage.finish()
    assert stage.engine.speculation.accepted > 0
    return mistakes(model, stage.rows)


def in_mlx_lms_batch(model: Model) -> list[str]:
    """A short and a long prompt in mlx_lm's own batch: the smallest case that pads."""
    greedy = [Ask(tokens(4, length, length), max_tokens=8, logprobs=0) for length in (3, 30)]
    rows = [Row(number, ask) for number, ask in enumerate(greedy)]
    batch = BatchGenerator(model.model)
    uids = batch.insert([list(row.ask.prompt) for row in rows], [8] * len(rows))
    by_uid = dict(zip(uids, rows, strict=True))
    while any(row.done is None for row in rows):
        for response in batch.next_generated():
            row = by_uid[response.uid]
            row.tokens.append(response.token)
            row.logprobs.append(response.logprobs[response.token].item())
            if response.finish_reason is not None:
                row.done = Done(row.id, response.finish_reason, len(row.tokens), "")
    return mistakes(model, rows)


def cut_otherwise_in_mlx_lm(model: Model) -> bool:
    """Return whether mlx_lm alone gives other log-probabilities where chunks are smaller."""
    ask = asks(5)[3]
    own = model.answer(ask)
    first = next(
        mlx_lm.stream_generate(
            model.model, model.tokenizer, list(ask.prompt), max_tokens=1, prefill_step_size=4
        )
    )
    return bool(abs(first.logprobs[own.tokens[0]].item() - own.logprobs[0]) > ROUNDING)


def mistakes(model: Model, rows: Iterable[Row]) -> list[str]:
    """Where rows differ from what mlx_lm says alone, beyond rounding."""
    return [it for row in rows if (it := difference(model, row)) is not None]


def difference(model: Model, row: Row) -> str | None:
    """Compare tokens and log-probabilities; all models here share one tokenizer, so no text."""
    answer = model.answer(row.ask)
    assert row.done is not None
    computed = answer.tokens if row.done.finish != "cancelled" else answer.tokens[: len(row.tokens)]
    if row.tokens != computed:
        return f"{row.tokens} is not {computed}, whose gaps are {answer.gaps}"
    if row.done.finish not in ("cancelled", answer.finish):
        return f"ended by {row.done.finish}, not by {answer.finish}"
    own = answer.logprobs[row.resumed :]
    changes = [abs(ours - theirs) for ours, theirs in zip(row.logprobs, own, strict=False)]
    if all(change < ROUNDING for change in changes):
        return None
    return f"log-probabilities moved by {changes}"
