"""What neighbours must not change, counted in steps and in texts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.wire.output import StepOutput
from mlx_worker.wire.request import Sampling
from tests.fidelity import tally
from tests.fidelity.families import BATCHED, UNBATCHED
from tests.fidelity.reference import Ask
from tests.fidelity.scenarios import Stage, mistakes, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fidelity.reference import Model

pytestmark = pytest.mark.fidelity


FAMILIES = [*BATCHED, *UNBATCHED]
CHUNK = 32


def rows_in_the_batch(stage: Stage) -> int:
    """What mlx_lm would compute at the next step."""
    batch = stage.engine._batch
    return len(batch._generation_batch) + len(batch._prompt_batch)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("family", BATCHED)
def test_a_cancelled_row_is_out_of_the_batch_before_the_next_step(
    family: str, steps: int, model_of: Callable[[str], Model]
) -> None:
    stage = Stage(model_of(family))
    stage.set_chunk_size(CHUNK)
    stays = stage.admit(Ask(tokens(1, 1, 20), max_tokens=40))
    # Read in four chunks: the smaller counts of steps cancel its prefill.
    leaves = stage.admit(Ask(tokens(1, 2, 4 * CHUNK + 1), max_tokens=40))
    for _ in range(steps):
        stage.step()
    assert rows_in_the_batch(stage) == 2
    stage.cancel(leaves)
    assert rows_in_the_batch(stage) == 1
    said = stage.step()
    rows = [row for message in said if isinstance(message, StepOutput) for row in message.rows]
    others = [message for message in said if not isinstance(message, StepOutput)]
    assert {row_output.id for row_output in [*rows, *others]} == {stays.id}
    stage.finish()
    wrong = mistakes(stage.model, [stays])
    tally.note(family, 1, len(wrong))
    assert not wrong


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_cancelled_request_had_read_is_not_read_again(
    family: str, steps: int, model_of: Callable[[str], Model]
) -> None:
    stage = Stage(model_of(family), concurrency=1)
    stage.set_chunk_size(CHUNK)
    ask = Ask(tokens(2, 1, 4 * CHUNK + 10), max_tokens=40)
    leaves = stage.admit(ask)
    for _ in range(steps):
        stage.step()
    assert leaves.read == min(steps * CHUNK, len(ask.prompt))
    stage.cancel(leaves)
    # What was read may be resident to its last token: another must follow.
    read = leaves.read + len(leaves.tokens)
    known = [*ask.prompt, *leaves.tokens][:read]
    again = stage.admit(Ask((*known, 77), max_tokens=9))
    assert again.started is not None
    assert again.started.cached_tokens == read
    stage.finish()
    wrong = mistakes(stage.model, [again])
    tally.note(family, 1, len(wrong))
    assert not wrong


SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "min_p": 0.02},
    {"temperature": 1.2, "repetition_penalty": 1.2, "frequency_penalty": 0.4},
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_one_seed_is_one_text_fifty_times_among_random_company(
    sampler: dict[str, Any], model_of: Callable[[str], Model]
) -> None:
    draw = random.Random(repr(sampler))
    stage = Stage(model_of("tiny"))
    ask = Ask(tokens(3, 0, 50), 30, 24, Sampling(seed=draw.getrandbits(64), **sampler))
    asked = []
    for i in range(50):
        asked.append(stage.admit(ask))
        other = Sampling(seed=i, temperature=draw.choice([0.0, 1.0]))
        stranger = stage.admit(Ask(tokens(3, i + 1, draw.randint(1, 90)), 0, 20, other))
        for _ in range(draw.randint(0, 6)):
            stage.step()
        if stranger in stage.running and draw.random() < 0.3:
            stage.cancel(stranger)
        if draw.random() < 0.2:
            stage.engine.clear_cache()
    stage.finish()
    assert {row.text for row in asked} == {stage.model.text(ask)[0]}
    assert stage.model.text(ask) != stage.model.text(Ask(ask.prompt, max_tokens=24))
    heard = [row for row in stage.rows if row.tokens]
    wrong = mistakes(stage.model, heard)
    tally.note("tiny", len(heard), len(wrong))
    assert not wrong


def test_mlx_lm_still_masks_a_full_window_wrongly_after_a_chunk_of_one_token(
    model_of: Callable[[str], Model],
) -> None:
    # Why `schedule.chunk_past_segment_ends` is there; when this fails, it has become needless.
    # mlx_lm's BatchRotatingKVCache.make_mask takes `_idx` for the width of the buffer; once a
    # chunk of one token has turned the buffer round, it is not, and the mask of the next wider
    # chunk hides the first token of whoever has padding on the left.
    stage = Stage(model_of("window"))
    stage.set_chunk_size(1)
    stage.admit(Ask(tokens(4, 1, 100), max_tokens=12))
    for _ in range(40):
        stage.step()
    stage.admit(Ask(tokens(4, 2, 30), max_tokens=12))
    for _ in range(2):
        stage.step()
    stage.set_chunk_size(8)
    stage.finish()
    wrong = mistakes(stage.model, stage.rows)
    assert wrong


@pytest.mark.parametrize("sampler", [{}, SAMPLERS[1], SAMPLERS[2]], ids=repr)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_goes_on_after_any_of_its_tokens(
    family: str, sampler: dict[str, Any], model_of: Callable[[str], Model]
) -> None:
    stage = Stage(model_of(family))
    ask = Ask(tokens(5, 1, 40), 20, 24, Sampling(seed=9, **sampler), segment_ends=(30, 38))
    whole = stage.model.answer(ask)
    for said in range(len(whole.tokens)):
        if said == len(whole.tokens) - 1 and whole.finish == "stop":
            break  # only the end-of-text token is to come: it releases no text of its own
        row = stage.admit(ask)
        while len(row.tokens) < said:
            stage.step()
        if said % 2:
            stage.crash()
        else:
            stage.replay(row, 1.0)
        stage.finish()
        assert row.replays == 1
    wrong = mistakes(stage.model, stage.rows)
    tally.note(family, len(stage.rows), len(wrong))
    assert not wrong


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_prompt_and_the_next_turn_are_read_from_the_cache(
    family: str, model_of: Callable[[str], Model]
) -> None:
    stage = Stage(model_of(family))
    ask = Ask(tokens(6, 1, 200), 100, 8, segment_ends=(150, 196))
    for prompt, cached in (
        (ask.prompt, 0),
        (ask.prompt, 196),
        ((*ask.prompt[:160], *tokens(6, 2, 40)), 150),
        ((*ask.prompt, *stage.model.answer(ask).tokens, *tokens(6, 3, 20)), 207),
        ((*ask.prompt[:100], *tokens(6, 4, 20)), 100),
    ):
        row = stage.admit(Ask(prompt, 100, 8, segment_ends=(150, 196)))
        stage.finish()
        assert row.started is not None
        assert row.started.cached_tokens >= cached
    wrong = mistakes(stage.model, stage.rows)
    tally.note(family, len(stage.rows), len(wrong))
    assert not wrong
