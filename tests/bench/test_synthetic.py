"""What the bench's own models are made of."""

from __future__ import annotations

from dataclasses import replace

from mlx_worker.bench.synthetic.family import Spec, weights
from mlx_worker.bench.synthetic.llama import DEAF_LLAMA, LLAMA, SLOW, TINY
from mlx_worker.bench.synthetic.tokenizer import vocabulary

SMALL = Spec(hidden=8, layers=1, heads=2, intermediate=16, seed=1)


def test_padding_adds_rows_of_zeros_and_changes_no_other_weight() -> None:
    tokens = vocabulary()
    plain = weights(SMALL, LLAMA, tokens)
    padded = weights(replace(SMALL, padding=3), LLAMA, tokens)
    for name, (shape, values) in plain.items():
        padded_shape, padded_values = padded[name]
        assert padded_values[: len(values)] == values
        assert not any(padded_values[len(values) :])
        is_padded = name in ("model.embed_tokens.weight", "lm_head.weight")
        assert padded_shape == ((shape[0] + 3, *shape[1:]) if is_padded else shape)
    assert LLAMA.config(replace(SMALL, padding=3))["vocab_size"] == len(tokens) + 3


def test_a_deaf_model_s_token_depends_on_the_one_before_alone() -> None:
    tensors = weights(SMALL, DEAF_LLAMA, vocabulary())
    _, output = tensors["model.layers.0.self_attn.o_proj.weight"]
    assert not any(output)


def test_the_slow_model_says_what_tiny_says() -> None:
    assert replace(SLOW, padding=0) == TINY
    assert len(vocabulary()) + SLOW.padding > 49_000
