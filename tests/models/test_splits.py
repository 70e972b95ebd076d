"""Splits that the numbers of a model do not allow."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_worker.errors import UnservableModel
from mlx_worker.models.splits import check_split

SMOLLM2 = {"num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 30}
GROUPED = {"num_attention_heads": 16, "num_key_value_heads": 2, "num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("config", "ranks", "split"),
    [
        (SMOLLM2, 3, "tensor"),
        (SMOLLM2, 2, "pipeline"),
        (GROUPED, 2, "tensor"),
        ({"text_config": GROUPED, "num_attention_heads": 3}, 2, "tensor"),
        ({**GROUPED, "kv_lora_rank": 512}, 4, "tensor"),
        ({}, 2, "tensor"),
        ({"num_attention_heads": "many"}, 2, "tensor"),
    ],
)
def test_split_that_divides_every_number_is_allowed(
    config: dict[str, Any], ranks: int, split: str
) -> None:
    check_split(config, ranks, split)


@pytest.mark.parametrize(
    ("config", "ranks", "split", "numbers"),
    [
        (SMOLLM2, 2, "tensor", "9 attention heads and 3 KV heads cannot be split over 2 ranks"),
        (GROUPED, 4, "tensor", "2 KV heads cannot be split over 4 ranks"),
        (GROUPED, 5, "pipeline", "4 layers cannot be split over 5 ranks"),
    ],
)
def test_split_that_cannot_be_is_refused_with_the_numbers(
    config: dict[str, Any], ranks: int, split: str, numbers: str
) -> None:
    with pytest.raises(UnservableModel, match=numbers):
        check_split(config, ranks, split)
