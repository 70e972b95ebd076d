"""Log-probabilities of a prompt's own tokens, by which evaluation tools compare texts.

The logits of a chunk are what reading computes anyway. They are normalized in 32 bits, as in
mlx_lm's `evaluate`. Only what a request asks for is stored: each token of the prompt, and the
likeliest tokens. The cost counts as reading, so that chunks stay as short as running streams need.
[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import mlx.core as mx
import msgspec

from mlx_worker.engine.checks.computation import Evidence
from mlx_worker.engine.output.logprobs import choice_of
from mlx_worker.engine.prefill import LARGEST_CHUNK
from mlx_worker.errors import InvalidRequest
from mlx_worker.wire.completion_logprobs import LOGPROB_LISTS, Offsets, logprob_lists
from mlx_worker.wire.output import PromptScores, TokenChoice, TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Sequence as Listed

    from mlx_worker.engine.output.markers import Markers
    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.engine.sequence import Sequence
    from mlx_worker.wire.request import PromptScoring

MOST_SCORES: Final = 2_000_000
"""Tokens and alternatives that are reported for one prompt: tens of megabytes of JSON."""

MOST_BYTES: Final = 256 << 20
"""Of logits and of arrays computed from logits, in one chunk."""

BYTES_A_LOGIT: Final = 16
"""The logit, its log-probability, the same negated, and its place in a sorted row."""

UNLIKELY: Final = -9999.0
"""OpenAI's value for a token that cannot come: JSON has no infinity."""


class Measured(NamedTuple):
    """Hold the scores of a chunk on the device: a row for each token."""

    chosen: mx.array
    ranks: mx.array
    best: mx.array | None
    best_logprobs: mx.array | None
    evidence: Evidence

    @property
    def arrays(self) -> list[mx.array]:
        """Return all arrays to be evaluated."""
        made = (self.chosen, self.ranks, self.best, self.best_logprobs, self.evidence.least)
        return [array for array in made if array is not None]


class PromptScorer:
    """Score one prompt, in stretches, while the prompt is read."""

    def __init__(self, markers: Markers, scoring: PromptScoring, prompt: Prompt) -> None:
        self._markers = markers
        self._scoring = scoring
        self._tokens = prompt.tokens
        self._place = 0
        self._text = prompt.text.encode("utf-8", "surrogatepass")
        self._shown = 0
        self._offsets = Offsets(0)
        self._echoed: list[list[bytes]] = [[] for _ in LOGPROB_LISTS]
        self._listed: list[bytes] = []
        self._begin()

    def measure(self, logits: mx.array) -> Measured | None:
        """Return the scores of the next chunk's logits (tokens, vocabulary); None: no token left.

        The logits at one place are about the token at the next.
        """
        begin = self._place + 1
        targets = self._tokens[begin : begin + logits.shape[0]]
        self._place += logits.shape[0]
        if not targets:
            return None
        exact = logits[: len(targets)].astype(mx.float32)
        normalizers = mx.logsumexp(exact, axis=-1, keepdims=True)
        logprobs = exact - normalizers
        chosen = mx.take_along_axis(logprobs, mx.array(targets)[:, None], axis=-1)
        ranks = mx.sum(logprobs >= chosen, axis=-1)
        count = min(self._scoring.alternatives, logprobs.shape[-1])
        best = best_logprobs = None
        if count:
            unsorted = mx.argpartition(-logprobs, kth=count - 1, axis=-1)[:, :count]
            values = mx.take_along_axis(logprobs, unsorted, axis=-1)
            order = mx.argsort(-values, axis=-1)
            best = mx.take_along_axis(unsorted, order, axis=-1)
            best_logprobs = mx.take_along_axis(values, order, axis=-1)
        evidence = Evidence([0] * len(targets), logprobs, normalizers)
        return Measured(chosen[:, 0], ranks, best, best_logprobs, evidence)

    def add(self, measured: Measured) -> None:
        """Encode the scores of a chunk, which have been evaluated.

        Raises ComputationFailed for logits that were never computed.
        """
        measured.evidence.check((0,))
        chosen: list[float] = measured.chosen.tolist()  # type: ignore[assignment]
        ranks: list[int] = measured.ranks.tolist()  # type: ignore[assignment]
        nothing: list[Any] = [[]] * len(chosen)
        best: Any = nothing if measured.best is None else measured.best.tolist()
        values: Any = nothing if measured.best_logprobs is None else measured.best_logprobs.tolist()
        end = min(self._place + 1, len(self._tokens))
        tokens = self._tokens[end - len(chosen) : end]
        scores = [
            self._token_logprobs(token, logprob, list(zip(ids, logprobs, strict=True)))
            for token, logprob, ids, logprobs in zip(tokens, chosen, best, values, strict=True)
        ]
        if self._scoring.echoed is not None:
            self._echo(scores, self._scoring.echoed)
        if self._scoring.listed is not None:
            self._list(tokens, ranks, best, scores, self._scoring.listed)

    def message(self, id_: int, *, is_last: bool) -> PromptScores:
        """Return the scores encoded since the last call."""
        echoed = [b",".join(stretches) for stretches in self._echoed]
        listed = b",".join(self._listed)
        for stretches in self._echoed:
            stretches.clear()
        self._listed.clear()
        return PromptScores(id_, echoed, listed, is_last)

    # --- inside ---

    def _begin(self) -> None:
        """Encode the first token, which has no score."""
        first = self._tokens[0]
        if self._scoring.echoed is not None:
            text, _ = self._markers.text_of(first)
            offset = self._offsets.passed(self._added(first))
            for stretches, value in zip(self._echoed, (text, None, None, offset), strict=True):
                stretches.append(msgspec.json.encode(value))
        if self._scoring.listed is not None:
            self._listed.append(b"null")

    def _token_logprobs(
        self, token: int, logprob: float, likeliest: list[tuple[int, float]]
    ) -> TokenLogprobs:
        text, _ = self._markers.text_of(token)
        data = self._added(token) if self._scoring.echoed is not None else None
        return TokenLogprobs(
            TokenChoice(text, max(logprob, UNLIKELY), data),
            [choice_of(self._markers, other, max(value, UNLIKELY)) for other, value in likeliest],
        )

    def _added(self, token: int) -> bytes:
        """Return the bytes of the prompt's text that a token stands for.

        A tokenizer may add a token at the beginning that is not in the text, and a space before the
        first word.
        """
        data = self._markers.bytes_of(token)
        for spelling in (data, data.removeprefix(b" ") if self._shown == 0 else data):
            if spelling and self._text.startswith(spelling, self._shown):
                self._shown += len(spelling)
                return spelling
        return b""

    def _echo(self, scores: list[TokenLogprobs], count: int) -> None:
        kept = [TokenLogprobs(token.chosen, token.likeliest[:count]) for token in scores]
        lists = logprob_lists(kept, self._offsets)
        for stretches, name in zip(self._echoed, LOGPROB_LISTS, strict=True):
            stretches.append(msgspec.json.encode(lists[name])[1:-1])

    def _list(
        self,
        tokens: list[int],
        ranks: list[int],
        best: list[list[int]],
        scores: list[TokenLogprobs],
        count: int,
    ) -> None:
        entries = []
        for token, rank, ids, logprobs in zip(tokens, ranks, best, scores, strict=True):
            entry = {token: _entry(logprobs.chosen, rank)}
            likeliest = zip(ids[:count], logprobs.likeliest[:count], strict=True)
            for place, (other, choice) in enumerate(likeliest, 1):
                entry.setdefault(other, _entry(choice, place))
            entries.append(entry)
        self._listed.append(msgspec.json.encode(entries)[1:-1])


def check_scoring(scoring: PromptScoring | None, tokens: int) -> None:
    """Raise InvalidRequest where a prompt's tokens and alternatives are more than MOST_SCORES."""
    if scoring is None or tokens * (1 + scoring.alternatives) <= MOST_SCORES:
        return
    field = "prompt_logprobs" if scoring.echoed is None else "logprobs"
    raise InvalidRequest(
        f"{field}: {tokens} tokens of the prompt with {scoring.alternatives} alternatives each"
        f" exceed the limit of {MOST_SCORES} tokens and alternatives",
        param=field,
    )


def max_scored_tokens(vocabulary: int, rows: int) -> int:
    """Return how many tokens of each of these rows may be read at once if one of them is scored."""
    return MOST_BYTES // (BYTES_A_LOGIT * vocabulary * rows)


def largest_chunk(readers: Listed[Sequence], vocabulary: int) -> int:
    """Return how many tokens each of these sequences may read at once."""
    is_scored = any(reader.scorer is not None for reader in readers)
    return max_scored_tokens(vocabulary, len(readers)) if is_scored else LARGEST_CHUNK


def _entry(choice: TokenChoice, rank: int) -> dict[str, Any]:
    return {"logprob": choice.logprob, "rank": rank, "decoded_token": choice.text}
