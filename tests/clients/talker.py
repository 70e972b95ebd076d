"""Be the network of the made model: what comes next is decided by `talk`, from the tokens before.

A child serves this module as an architecture of mlx_lm. Everything around the network is the
product's own: the tokenizer, the template, the batch, the prompt cache, grammars, the parser of
calls. The "keys" in the cache are the token ids themselves, so whatever cuts, joins, keeps or
restores a prompt cache does so to the conversation that the rule reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.models.base import BaseModelArgs
from tokenizers import Tokenizer

from tests.clients.talk import ROW, TURN_BEGINS, TURN_ENDS, answer

CERTAIN: Final = 1000.0
"""The logit of the token that the rule wants: no temperature draws another."""

OTHERWISE: Final = ('"', "}", "]", ",", ":", "{", "[", "0")
"""What is preferred, in this order, where a grammar forbids the rule's token: ends JSON soon."""

SLOPE: Final = 1e-4
"""Between the logits of one token of a prompt and the next: nearly alike, which none may be."""

_HEADER: Final = "assistant\n"


@dataclass
class ModelArgs(BaseModelArgs):  # type: ignore[misc]  # mlx_lm has no types
    """What config.json says."""

    model_type: str
    vocab_size: int
    tokenizer: str
    """The path of tokenizer.json."""


class Model(nn.Module):  # type: ignore[misc]
    """One layer that keeps tokens, and the rule."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.model_type = args.model_type
        self.vocabulary = args.vocab_size
        self.layers = [nn.Linear(1, 1, bias=False)]
        self._rule = Rule(Path(args.tokenizer))
        self._of_prompts = -SLOPE * mx.arange(args.vocab_size)

    def __call__(self, inputs: mx.array, cache: Any = None, **_: Any) -> mx.array:
        """Return the logits; they say something only after a row's single newest token."""
        rows, length = inputs.shape
        if cache is None:
            return mx.broadcast_to(self._of_prompts, (rows, length, self.vocabulary))
        ids = inputs.astype(mx.float32)[:, None, :, None]
        keys, _ = cache[0].update_and_fetch(ids, ids)
        if length != 1:
            return mx.broadcast_to(self._of_prompts, (rows, length, self.vocabulary))
        padding = getattr(cache[0], "left_padding", None)
        begins = [0] * rows if padding is None else padding.tolist()
        history = np.array(keys[:, 0, :, 0]).astype(np.int64)
        logits = np.zeros((rows, 1, self.vocabulary), dtype=np.float32)
        for row, begin in enumerate(begins):
            self._rule.write(history[row, begin:], logits[row, 0])
        return mx.array(logits)


class Rule:
    """The rule in tokens."""

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._begins = self._id(TURN_BEGINS)
        self._ends = self._id(TURN_ENDS)
        self._header = len(self._encode(_HEADER))
        self._row = [self._one(word) for word in ROW]
        self._otherwise = [self._one(text) for text in OTHERWISE]
        self._answer = lru_cache(maxsize=64)(self._answer_after)

    def write(self, history: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]) -> None:
        """Write the logits of what follows these tokens."""
        for place, token in enumerate(self._otherwise):
            logits[token] = CERTAIN / 2 - 10 * place
        logits[self._next(history)] = CERTAIN

    def _next(self, history: np.ndarray[Any, Any]) -> int:
        starts = np.flatnonzero(history == self._begins)
        if not starts.size:
            return self._next_of_row(int(history[-1]))
        begin = int(starts[-1]) + 1 + self._header
        said = self._decode(history[begin:].tolist())
        wanted = self._answer(history[:begin].tobytes())
        if wanted != said and wanted.startswith(said):
            return self._encode(wanted[len(said) :])[0]
        return self._ends

    def _next_of_row(self, last: int) -> int:
        place = self._row.index(last) + 1 if last in self._row else 0
        return self._row[place] if place < len(self._row) else self._ends

    def _answer_after(self, prompt: bytes) -> str:
        return answer(self._decode(np.frombuffer(prompt, dtype=np.int64).tolist()))

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _one(self, text: str) -> int:
        first, *more = self._encode(text)
        assert not more, f"{text!r} is no token of its own"
        return first

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        assert found is not None, token
        return int(found)
