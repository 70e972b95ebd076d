"""Engines whose rows draft, and what has to be the same as without drafts.

A model of random weights repeats nothing. So a request brings a prediction: the answer itself, or
the answer with mistakes. `FewWords` is a model that chooses among few tokens, and so repeats much.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
import numpy as np

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.prompt import Prompt
from mlx_worker.engine.speculation.ladder import ROWS, WIDTHS, Ladder
from mlx_worker.wire.messages import Started
from mlx_worker.wire.output import Done, RowOutput, StepOutput
from tests.fidelity.ties import ROUNDS_BY_SHAPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.engine.speculation.draft_model import DraftModel
    from mlx_worker.engine.structured.constraint import Constraint
    from mlx_worker.wire.request import ChatRequest

FREE: Final = Ladder(
    {(rows, width): 1.0 for rows in ROWS for width in WIDTHS}, clock=itertools.count().__next__
)
"""A ladder by which every draft pays, and a clock by which every step takes a second."""
CHEAP: Final = Ladder(dict.fromkeys(FREE.seconds, 0.02))
"""The ladder of a draft model beside that."""
CONTEXT: Final = 4096
KV_ROUNDING: Final = 1e-3 if ROUNDS_BY_SHAPE else 0.0
"""How far KV of the same tokens may be apart: not at all with mlx's own BLAS."""


class FewWords:
    """A model that says only some of its tokens."""

    def __init__(self, model: Any, words: Sequence[int]) -> None:
        self._model = model
        self.layers = model.layers
        self.parameters = model.parameters
        size = model(mx.array([[0]])).shape[-1]
        self._bias = mx.where(
            mx.any(mx.arange(size)[:, None] == mx.array(list(words))[None], axis=1), 0.0, -40.0
        )

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        return self._model(inputs, cache=cache) + self._bias  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Row:
    """A request to an engine, with the tokens that its answer may repeat."""

    request: ChatRequest
    prompt: tuple[int, ...]
    prediction: tuple[int, ...] = ()
    constraint: Constraint | None = None


@dataclass
class Result:
    """What an engine has sent about one request; `outputs` has one token each."""

    outputs: list[RowOutput] = field(default_factory=list)
    done: Done | None = None

    @property
    def tokens(self) -> list[int]:
        return [token for output in self.outputs for token in output.tokens]


@dataclass
class Played:
    """What became of some rows in one engine."""

    engine: Engine
    rows: list[Row]
    results: list[Result]
    steps: int = 0

    def step(self) -> None:
        """Run one step."""
        self.steps += 1
        self._take(self.engine.step())

    def finish(self) -> Played:
        """Run all rows to their ends."""
        while self.engine.active:
            self.step()
        return self

    def admit(self, id_: int, row: Row, replay: Sequence[int] = ()) -> None:
        """Admit a row."""
        prompt = Prompt(list(row.prompt), 0, "", prediction=row.prediction)
        message = self.engine.admit(
            id_, row.request, prompt, replay=list(replay), constraint=row.constraint
        )
        if not isinstance(message, Started):
            self._take([message])

    def _take(self, messages: Sequence[Any]) -> None:
        for message in messages:
            match message:
                case StepOutput():
                    for output in message.rows:
                        result = self.results[output.id]
                        assert result.done is None, "a token after the end"
                        result.outputs.append(output)
                case Done():
                    self.results[message.id].done = message
                case _:
                    pass

    @property
    def stored(self) -> dict[tuple[int, ...], list[np.ndarray[Any, Any]]]:
        """The KV that the rows have left behind, by its tokens."""
        return {
            tokens: [np.array(array) for layer in entry.kv for array in layer.state[:2]]
            for tokens, entry in self.engine.cache._entries.items()
        }


def begin(loaded: tuple[Any, Any], rows: Sequence[Row], ladder: Ladder | None = FREE) -> Played:
    """Return an engine with these rows; `ladder` None: no row drafts."""
    return begin_in(new_engine(loaded, ladder), rows)


def new_engine(
    loaded: tuple[Any, Any],
    ladder: Ladder | None,
    slots: int = 8,
    draft_model: DraftModel | None = None,
) -> Engine:
    """Return an engine that has seen nothing yet."""
    settings: dict[str, Any] = (
        {} if ladder is None else {"ladder": ladder, "draft_model": draft_model}
    )
    return Engine(*loaded, context_length=CONTEXT, max_concurrency=slots, **settings)


def begin_in(engine: Engine, rows: Sequence[Row]) -> Played:
    """Admit these rows to an engine that has none."""
    played = Played(engine, list(rows), [Result() for _ in rows])
    for id_, row in enumerate(rows):
        played.admit(id_, row)
    return played


def play(loaded: tuple[Any, Any], rows: Sequence[Row], ladder: Ladder | None = FREE) -> Played:
    """Run these rows to their ends."""
    return begin(loaded, rows, ladder).finish()


def assert_same(drafted: Played, plain: Played) -> None:
    """Assert that what clients are sent and what is left behind does not depend on drafts."""
    for mine, theirs in zip(drafted.results, plain.results, strict=True):
        assert mine.outputs == theirs.outputs
        assert without_counts(mine.done) == theirs.done
    mine_stored, theirs_stored = drafted.stored, plain.stored
    assert mine_stored.keys() == theirs_stored.keys()
    for tokens, arrays in mine_stored.items():
        for array, other in zip(arrays, theirs_stored[tokens], strict=True):
            mine_kv, theirs_kv = array[..., : len(tokens), :], other[..., : len(tokens), :]
            assert np.allclose(mine_kv, theirs_kv, rtol=0, atol=KV_ROUNDING)


def without_counts(done: Done | None) -> Done | None:
    """Return an end without what it tells of a prediction."""
    if done is None:
        return None
    fields = {name: getattr(done, name) for name in done.__struct_fields__}
    counts = ("accepted_prediction_tokens", "rejected_prediction_tokens")
    return Done(**fields | dict.fromkeys(counts, 0))


def with_mistakes(tokens: Sequence[int], seed: int, share: float = 0.1) -> tuple[int, ...]:
    """Return tokens of which some are others, left out or said twice."""
    draw = random.Random(seed)
    made: list[int] = []
    for token in tokens:
        if draw.random() >= share:
            made.append(token)
        else:
            made += draw.choice([[], [token, token], [draw.randrange(300, 1000)]])
    return tuple(made)
