"""What config.json states of the text model, under the names that model families give it.

[both]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT_PARTS: Final = (
    *("text_config", "llm_config", "language_config", "language_model_config", "lm_config"),
    *("thinker_config", "decoder_config", "decoder"),
)
"""Keys under which models of text and pictures keep the configuration of their text model."""

DEEPEST_PART: Final = 3

MOST_TOKENS: Final = 1 << 24
"""Of a context length; more than that stands for "no limit" in many files."""

CONTEXT_NAMES: Final = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_seq_length"),
    *("max_sequence_length", "seq_length", "seq_len", "model_max_length", "context_length"),
    "max_target_positions",
)
"""The first that is stated counts. A sliding window is no limit: what lies before it counts on."""

LAYER_NAMES: Final = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")

ORIGINAL: Final = "original_max_position_embeddings"
SCALINGS: Final = ("rope_scaling", "rope_parameters")


def context_length(config: dict[str, Any]) -> int | None:
    """Return the tokens that config.json says the model reads; None where it does not say."""
    parts = list(text_parts(config))
    for name in CONTEXT_NAMES:
        for part in parts:
            if tokens := tokens_of(part.get(name)):
                return tokens
    return next(filter(None, map(_scaled_context, parts)), None)


def tokenizer_context(tokenizer_config: dict[str, Any]) -> int | None:
    """Return the tokenizer's `model_max_length` where that is a length and no placeholder."""
    return tokens_of(tokenizer_config.get("model_max_length"))


def layer_count(config: dict[str, Any]) -> int | None:
    """Return the number of the text model's layers; None where config.json does not say."""
    for part in text_parts(config):
        stated = [number for name in LAYER_NAMES if (number := _whole(part.get(name)))]
        if stated:
            return min(stated)
    return None


def is_stated(config: dict[str, Any], name: str, value: object) -> bool:
    """Return True if config.json says so of the text model, at any of its places."""
    return any(part.get(name) is value for part in text_parts(config))


def text_parts(config: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the configuration and the text models inside, outer ones first."""
    yield config
    if depth < DEEPEST_PART:
        for name in TEXT_PARTS:
            if isinstance(inner := config.get(name), dict):
                yield from text_parts(inner, depth + 1)


def tokens_of(value: object) -> int | None:
    """Return a context length that is one: a positive whole number, not too large."""
    number = _whole(value)
    return number if number is not None and number <= MOST_TOKENS else None


def _whole(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _scaled_context(part: dict[str, Any]) -> int | None:
    """Return the length before a scaling of positions, times its factor if there is one."""
    scaling: dict[str, Any] = next(
        (inner for name in SCALINGS if isinstance(inner := part.get(name), dict)), {}
    )
    original = tokens_of(part.get(ORIGINAL)) or tokens_of(scaling.get(ORIGINAL))
    factor = scaling.get("factor")
    if original is None or isinstance(factor, bool) or not isinstance(factor, int | float):
        return original
    return tokens_of(original * factor // 1) if factor > 1 else original
