"""Whether the numbers of a model allow a split over several processes.

mlx_lm divides numbers of heads by the ranks and rounds down: such a model loads, and breaks in its
first forward. What only mlx_lm's code can tell (which families it splits) is left to the process
that loads the model. [both]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import UnservableModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEADS: Final = {"num_attention_heads": "attention heads", "num_key_value_heads": "KV heads"}
"""Keys of config.json, and what they count."""

LATENT: Final = "kv_lora_rank"
"""The key of a model whose KV is one latent vector a token, which every rank has whole."""


def check_split(config: Mapping[str, Any], ranks: int, split: str) -> None:
    """Raise UnservableModel if a model with this config.json cannot be split over the ranks."""
    text = config.get("text_config")
    numbers = {**config, **text} if isinstance(text, dict) else config
    if split == "pipeline":
        layers = numbers.get("num_hidden_layers")
        if isinstance(layers, int) and layers < ranks:
            raise UnservableModel(f"ranks: {layers} layers cannot be split over {ranks} ranks")
        return
    uneven = [f"{count} {what}" for count, what in _heads(numbers) if count % ranks]
    if uneven:
        raise UnservableModel(f"ranks: {' and '.join(uneven)} cannot be split over {ranks} ranks")


def _heads(numbers: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    for key, what in HEADS.items():
        count = numbers.get(key)
        if isinstance(count, int) and not (key == "num_key_value_heads" and LATENT in numbers):
            yield count, what
