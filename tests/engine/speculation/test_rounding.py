"""Rows draft where wide passes move no logit; if wanted, where they round as batches do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import mlx.core as mx
import pytest
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.engine.loading import read_model
from mlx_worker.engine.speculation.ladder import WIDTHS, Ladder, ladder_of
from mlx_worker.engine.speculation.rounding import READ, SAME, rounding_because
from tests.rounds import variants
from tests.synthetic_models import make

if TYPE_CHECKING:
    from pathlib import Path

TYPES = ["float32", "bfloat16", "float16", "8-bit", "4-bit"]


class Rounded:
    """A model whose logits of a token move by the shape of the pass."""

    def __init__(self, model: Any, *, wide: float, batch: float) -> None:
        self._model, self._wide, self._batch = model, wide, batch
        self.layers = model.layers
        self.passes = 0.0

    def __call__(self, inputs: mx.array, cache: Any = None) -> Any:
        self.passes += 1
        rows, width = inputs.shape
        is_prompt = cache is None or cache[0].size() < READ
        moved = self._batch * (rows > 1) + self._wide * (width > 1)
        return self._model(inputs, cache=cache) + (0 if is_prompt else moved)


def because(model: Any, *, as_batches: bool = False) -> str:
    return rounding_because(model, make_prompt_cache(model), WIDTHS, as_batches=as_batches)


def in_type(model: Any, name: str) -> Any:
    """The model with its weights in another format."""
    if name.endswith("bit"):
        nn.quantize(model, group_size=32, bits=int(name[0]))
    else:
        model.set_dtype(getattr(mx, name))
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module")
def model(nano: Path) -> Any:
    return read_model(nano)[0]


@pytest.mark.parametrize("dtype", variants(TYPES, ["float32", "bfloat16", "4-bit"]))
def test_mlxs_own_kernels_on_a_cpu_round_alike_in_every_format(dtype: str, tiny: Path) -> None:
    assert because(in_type(read_model(tiny)[0], dtype)) == ""


@pytest.mark.full
@pytest.mark.parametrize("name", ["latent"])
def test_other_attention_on_a_cpu_has_an_answer(name: str, tmp_path: Path) -> None:
    # Its code has one way for a token and another way for several: either is reported rightly.
    loaded = read_model(make(name, tmp_path / name))[0]
    assert because(loaded) == "" or "rounding moves logits" in because(loaded)


def test_wide_passes_that_round_otherwise_are_not_used(model: Any) -> None:
    assert because(Rounded(model, wide=1e-3, batch=0)) == (
        "rounding moves logits by 0.001 in a forward pass of several tokens, "
        "and by 0 in one of several rows"
    )


def test_wide_passes_may_round_as_far_as_batches_do_if_that_is_accepted(model: Any) -> None:
    as_far = Rounded(model, wide=1e-3, batch=1e-3)
    assert because(as_far).endswith('in one of several rows; speculation = "on" accepts that')
    assert because(as_far, as_batches=True) == ""
    further = because(Rounded(model, wide=4 * SAME * 1e-3, batch=1e-3), as_batches=True)
    assert further.endswith("in one of several rows")


def test_infinite_logits_that_are_equal_do_not_move(model: Any) -> None:
    class Masked(Rounded):
        def __call__(self, inputs: mx.array, cache: Any = None) -> Any:
            logits = super().__call__(inputs, cache)
            return mx.where(mx.arange(logits.shape[-1]) < 9, -mx.inf, logits)

    assert because(Masked(model, wide=0, batch=0)) == ""


def test_model_that_rounds_otherwise_does_not_draft_though_it_would_pay(model: Any) -> None:
    def measured(
        *, wide: float, batch: float = 0, setting: Literal["auto", "on"] = "auto"
    ) -> Ladder:
        rounded = Rounded(model, wide=wide, batch=batch)
        return ladder_of(rounded, 8, setting, clock=lambda: rounded.passes)

    paying, refused = measured(wide=0), measured(wide=1e-3)
    assert paying.because == ""
    assert "rounding moves logits" in refused.because
    assert refused.seconds == paying.seconds
    assert refused.best_gain(1) == max(WIDTHS)
    assert measured(wide=1e-3, batch=1e-3).because
    assert measured(wide=1e-3, batch=1e-3, setting="on").because == ""
