"""Random scenarios whose rows draft: every answer is mlx_lm's own, which drafts nothing.

Two thirds of the requests bring a prediction, which is the answer with mistakes; one third does,
where a draft model drafts too. Drafts of the others are looked up in their own tokens, of which a
model with few words repeats many, or come from a draft model.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar
from zlib import crc32

import pytest
from hypothesis import strategies as st

from mlx_worker.engine.batch_support import logit_count
from mlx_worker.engine.engine import Engine
from mlx_worker.engine.prompt import Prompt
from mlx_worker.engine.speculation.draft_model import DraftModel
from tests.drafting_harness import CHEAP, FREE, FewWords, Row, assert_same, play, with_mistakes
from tests.fidelity import tally
from tests.fidelity.reference import Model
from tests.fidelity.scenarios import Stage
from tests.fidelity.test_fidelity import compare
from tests.rounds import rounds
from tests.structured_harness import EngineHarness, asked, schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlx_worker.engine.structured.constraint import Constraint
    from mlx_worker.wire.request import ChatRequest
    from tests.fidelity.reference import Ask

pytestmark = pytest.mark.fidelity

CASES = rounds(120, 120, 1200)
"""Of each model."""
BOUND = rounds(20, 20, 120)
"""Batches in which some rows have a grammar."""
WORDS = 8


class DraftingStage(Stage):
    """An engine whose rows draft wherever they can."""

    drafted = accepted = 0
    mistakes: ClassVar = {1: 0.02, 2: 0.2}
    """How much of the prediction is wrong, for two thirds of the requests."""

    def _new_engine(self, concurrency: int) -> Engine:
        return Engine(
            self.model.model,
            self.model.tokenizer,
            context_length=8192,
            max_concurrency=concurrency,
            ladder=FREE,
        )

    def _prompt_of(self, ask: Ask) -> Prompt:
        prompt = super()._prompt_of(ask)
        number = crc32(repr(ask).encode())
        share = self.mistakes.get(number % 3)
        if share is None:
            return prompt
        answer = self.model.answer(ask).tokens
        return replace(prompt, prediction=with_mistakes(answer, number, share))

    def finish(self) -> None:
        super().finish()
        type(self).drafted += self.engine.speculation.drafted
        type(self).accepted += self.engine.speculation.accepted


@pytest.mark.timeout(0)
@pytest.mark.parametrize("words", [None, WORDS], ids=["any words", "few words"])
def test_every_answer_with_drafts_is_mlx_lms_in_any_company(
    words: int | None, model_of: Callable[[str], Model]
) -> None:
    tiny = model_of("tiny")
    chosen = random.Random(0).sample(range(300, 1000), words or 1)
    model = tiny.model if words is None else FewWords(tiny.model, chosen)
    drafting = Model(f"drafts of {words or 'any'} words", model, tiny.tokenizer)
    before = DraftingStage.accepted
    compare(drafting, CASES, st.sampled_from([8, 8, 4, 2, 1]), DraftingStage)
    assert DraftingStage.accepted - before > CASES
    assert DraftingStage.drafted > DraftingStage.accepted


class ModelDraftingStage(DraftingStage):
    """An engine with a draft model too, for rows whose lookup finds nothing."""

    draft: Any = None
    model_accepted = 0
    mistakes: ClassVar = {1: 0.02}

    def _new_engine(self, concurrency: int) -> Engine:
        draft = DraftModel(self.draft, CHEAP, logit_count(self.model.model), None, 0.001)
        return Engine(
            self.model.model,
            self.model.tokenizer,
            context_length=8192,
            max_concurrency=concurrency,
            ladder=FREE,
            draft_model=draft,
        )

    def finish(self) -> None:
        super().finish()
        type(self).model_accepted += self.engine.speculation.model_accepted


@pytest.mark.timeout(0)
@pytest.mark.parametrize("drafts_by", ["tiny", "nano"])
def test_every_answer_with_a_draft_model_is_mlx_lms_in_any_company(
    drafts_by: str, model_of: Callable[[str], Model]
) -> None:
    tiny, draft = model_of("tiny"), model_of(drafts_by).model

    class ByModel(ModelDraftingStage):
        pass

    ByModel.draft = draft
    drafting = Model(f"drafts of {drafts_by} as a model", tiny.model, tiny.tokenizer)
    compare(drafting, CASES, st.sampled_from([8, 8, 4, 2, 1]), ByModel)
    if drafts_by == "tiny":
        assert ByModel.model_accepted > CASES


@pytest.mark.timeout(0)
def test_answers_with_grammars_beside_drafts_are_the_same(caller: Path) -> None:
    harness = EngineHarness(caller)
    loaded = (harness.model, harness.tokenizer)

    def compiled(request: ChatRequest, prompt: tuple[int, ...]) -> Constraint | None:
        return harness.constraints.compile(request, Prompt(list(prompt), 0, ""))

    draw = random.Random(1)
    shape = schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    for number in range(BOUND):
        rows: list[Row] = []
        for place in range(4):
            settings: dict[str, Any] = {
                "seed": draw.getrandbits(60),
                "temperature": draw.choice([0.0, 0.7, 1.0]),
                "max_tokens": draw.randint(1, 60),
            }
            request = asked(shape if place % 2 else None, **settings)
            prompt = tuple(draw.randrange(300, 1000) for _ in range(draw.randint(3, 40)))
            plain = Row(request, prompt, constraint=compiled(request, prompt))
            answer = play(loaded, [plain], None).results[0].tokens
            bound = compiled(request, prompt)
            rows.append(Row(request, prompt, with_mistakes(answer, number), bound))
        again = [replace(row, constraint=compiled(row.request, row.prompt)) for row in rows]
        drafted = play(loaded, rows)
        assert_same(drafted, play(loaded, again, None))
        tally.note("drafts beside grammars", len(rows), 0)
