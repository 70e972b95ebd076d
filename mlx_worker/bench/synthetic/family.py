"""The parts of a synthetic model: its shape, its tensors, and the noise they are filled with.

The weights are random and frozen, tuned only so that greedy decoding never stops by itself, prints
plain English words, and depends on the whole prompt: a token lost, repeated or given to the wrong
stream changes the text. [bench]
"""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mlx_worker.bench.synthetic.tokenizer import CHAT_TEMPLATE, WORDS, byte_alphabet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# How far each kind of matrix stretches a vector of unit variance. Attention speaks louder than the
# token itself, else greedy decoding is a walk from word to word that soon closes into a loop. The
# head is loud so that a special token, whose logit is 0, is hardly ever sampled either.
GAINS: Mapping[str, float] = {
    "q_proj": 2.0,
    "k_proj": 2.0,
    "v_proj": 2.0,
    "o_proj": 2.0,
    "gate_proj": 1.5,
    "up_proj": 1.5,
    "down_proj": 1.5,
    "lm_head": 4.5,
}

PADDED: Final = ("embed_tokens", "lm_head")
"""Kinds of matrices that have a row for each token, and the padding behind them."""

Shape: TypeAlias = tuple[int, ...]
Floats: TypeAlias = "array[float]"  # quoted: Python 3.11 cannot subscript it


@dataclass(frozen=True)
class Spec:
    """The shape of one model, and the seed that picks its weights (tried, not guessed)."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    seed: int
    context: int = 8192
    template: str = CHAT_TEMPLATE
    added: tuple[str, ...] = ()
    """Tokens that are added to the vocabulary and are no special ones."""
    padding: int = 0
    """Rows of embeddings and head that belong to no token, as real models have some."""


def norms_are_one(_name: str, shape: Shape) -> float | None:
    """Return the constant that fills a tensor, as in a norm without effect; None for noise."""
    return 1.0 if len(shape) == 1 else None


@dataclass(frozen=True)
class Family:
    """The configuration and the tensors of one architecture, and what fills the tensors."""

    config: Callable[[Spec], dict[str, Any]]
    shapes: Callable[[Spec], dict[str, Shape]]
    gains: Mapping[str, float] = field(default_factory=lambda: GAINS)
    constant: Callable[[str, Shape], float | None] = norms_are_one


def weights(spec: Spec, family: Family, tokens: list[str]) -> dict[str, tuple[Shape, Floats]]:
    """Return every tensor: its shape and its values, row by row."""
    tensors = {
        name: (shape, _values(spec, family, name, shape))
        for name, shape in family.shapes(spec).items()
    }
    _, head = tensors["lm_head.weight"]
    _silence(head, spec.hidden, tokens)
    return tensors


def _values(spec: Spec, family: Family, name: str, shape: Shape) -> Floats:
    """Return uniform noise; each tensor has a random stream of its own, named after the tensor.

    Rows of padding are zero: greedy never picks a logit of 0.
    """
    count = math.prod(shape)
    constant = family.constant(name, shape)
    if constant is not None:
        return array("f", [constant]) * count
    kind = name.split(".")[-2]
    gain = family.gains[kind] / math.sqrt(shape[1]) if kind in family.gains else 1.0
    reach = gain * math.sqrt(3)  # uniform in ±√3 has unit variance
    draw = random.Random(f"{spec.seed}/{name}").random  # noqa: S311  (no secret)
    padding = spec.padding * shape[1] if kind in PADDED else 0
    noise = array("f", (reach * (2 * draw() - 1) for _ in range(count - padding)))
    return noise + array("f", [0.0]) * padding


def _silence(head: Floats, hidden: int, tokens: list[str]) -> None:
    """Zero the head's row of all but whole spaced words: greedy never picks a logit of 0."""
    space = byte_alphabet()[ord(" ")]
    spoken = {space + word for word in WORDS}
    for row, token in enumerate(tokens):
        if token not in spoken:
            head[row * hidden : (row + 1) * hidden] = array("f", [0.0]) * hidden
