"""A smaller model that drafts: it proposes the tokens of rows whose lookup finds nothing.

The draft model samples as the row does, from its own logits with the keys of the same positions: a
sampled token is then often the same too. Its KV holds rows that draft together in one batch, the
others apart, and follows the tokens that the rows have by comparing them. A draft changes no token,
so nothing of this has to be exact. [child]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlx_worker.engine.batch_support import logit_count
from mlx_worker.engine.decoding import normalized
from mlx_worker.engine.sampling import sample_rows
from mlx_worker.engine.speculation.kv import close_gap, drop_last, free_columns
from mlx_worker.engine.speculation.ladder import WIDTHS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mlx_worker.engine.sampling import RowSampler
    from mlx_worker.engine.speculation.ladder import Ladder

BEHIND: Final = WIDTHS[-1]
"""Tokens that rows of the batch read in one pass before they draft."""
READ_SECONDS: Final = 0.025
"""How long one step may be delayed by tokens that the draft model has to read."""


@dataclass(frozen=True, slots=True)
class DraftAsk:
    """Ask for a draft of a row: `tokens` are those of prompt and answer, `last` is the next."""

    tokens: Sequence[int]
    last: int
    sampler: RowSampler


@dataclass(slots=True)
class _Held:
    """Hold what the KV has of a row: `read` tokens of the row, and a draft behind them.

    `kv` is empty while the row is in the batch.
    """

    kv: list[Any]
    read: int = 0
    drafted: list[int] = field(default_factory=list)

    def agreed(self, tokens: Sequence[int]) -> int:
        """Return how many of these tokens the KV has from the first on."""
        count = 0
        followed = tokens[self.read : self.read + len(self.drafted)]
        for draft, token in zip(self.drafted, followed, strict=False):
            if draft != token:
                break
            count += 1
        return self.read + count


class DraftModel:
    """Draft tokens of the rows of one engine, which has `vocabulary` logits a token.

    `ladder` has the costs of the draft model's own passes, `read_cost` is the seconds of a token of
    a prompt. It reads no further than `context_length` tokens.
    """

    def __init__(
        self,
        model: Any,
        ladder: Ladder,
        vocabulary: int,
        context_length: int | None,
        read_cost: float,
    ) -> None:
        self._model = model
        self._ladder = ladder
        self._vocabulary = vocabulary
        self._context_length = context_length
        self._rows: dict[int, _Held] = {}
        self._last_token = logit_count(model) - 1
        self._batch: list[int] = []
        self._cache: list[Any] = []
        self._read_cost = read_cost
        self._seconds_to_read = READ_SECONDS

    @property
    def nbytes(self) -> int:
        """Return the bytes of the KV of all rows."""
        apart = (layer for held in self._rows.values() for layer in held.kv)
        return sum(layer.nbytes for layer in (*apart, *self._cache))

    def cost(self, rows: int, count: int) -> float:
        """Return the seconds of drafting this number of tokens for each of these rows."""
        return self._ladder.cost(rows, 2) + (count - 1) * self._ladder.cost(rows, 1)

    def takes(self, length: int) -> bool:
        """Return True if the draft model drafts for a row of this number of tokens."""
        most = self._context_length
        return length >= BEHIND and (most is None or length + BEHIND < most)

    def keep(self, uids: Collection[int]) -> None:
        """Forget all rows but these."""
        gone = self._rows.keys() - uids
        if not gone:
            return
        for uid in gone:
            del self._rows[uid]
        places = [place for place, uid in enumerate(self._batch) if uid not in gone]
        if len(places) == len(self._batch):
            return
        self._batch = [self._batch[place] for place in places]
        if not places:
            self._cache = []
        for layer in self._cache:
            layer.filter(places)

    def propose(self, asks: Mapping[int, DraftAsk], count: int) -> dict[int, list[int]]:
        """Return `count` drafted tokens of each row that asks, by the row's number.

        No row that asks is behind.
        """
        uids = [*asks]
        self._gather(uids)
        # All rows read as many tokens, two at least: a row whose draft was right to the end has
        # not read the draft's last token.
        width = max(2, 1 + max(self._missing(uid, ask.tokens) for uid, ask in asks.items()))
        self._cut([ask.tokens for ask in asks.values()], width - 1)
        drawn = self._draw([*asks.values()], width, count)
        for uid, draft in zip(uids, drawn, strict=True):
            held = self._rows[uid]
            held.read = len(asks[uid].tokens)
            held.drafted = [asks[uid].last, *draft[:-1]]
        return dict(zip(uids, drawn, strict=True))

    def is_behind(self, uid: int, tokens: Sequence[int]) -> bool:
        """Return True if the row has to read tokens before it can ask."""
        return self._missing(uid, tokens) >= BEHIND

    def read(self, uid: int, tokens: Sequence[int], seconds: float) -> None:
        """Read some tokens of a row that is behind, apart from the batch; do not wait.

        Each call has that many `seconds` for it, which are saved until they are worth a pass.
        """
        self._seconds_to_read = min(READ_SECONDS, self._seconds_to_read + seconds)
        count = int(self._seconds_to_read / self._read_cost)
        if count < BEHIND:
            return
        if uid in self._batch:
            self._take_apart()
        held = self._rows[uid]
        agreed = held.agreed(tokens)
        for layer in held.kv:
            layer.trim(layer.size() - agreed)
        chunk = tokens[agreed : agreed + count]
        self._logits(mx.array([chunk]), held.kv)
        mx.async_eval([layer.state for layer in held.kv])  # type: ignore[no-untyped-call]
        held.read, held.drafted = agreed + len(chunk), []
        self._seconds_to_read -= len(chunk) * self._read_cost

    def _missing(self, uid: int, tokens: Sequence[int]) -> int:
        """Return how many of the row's tokens the KV lacks."""
        if uid not in self._rows:
            self._rows[uid] = _Held(make_prompt_cache(self._model))
        return len(tokens) - self._rows[uid].agreed(tokens)

    def _gather(self, uids: list[int]) -> None:
        """Put exactly these rows into the batch."""
        if uids == self._batch:
            return
        self._take_apart()
        kv = [self._rows[uid].kv for uid in uids]
        self._cache = [layers[0].merge(list(layers)) for layers in zip(*kv, strict=True)]
        self._batch = uids
        for uid in uids:
            self._rows[uid].kv = []

    def _take_apart(self) -> None:
        """Give every row of the batch a KV of its own."""
        for place, uid in enumerate(self._batch):
            self._rows[uid].kv = [layer.extract(place) for layer in self._cache]
        self._batch, self._cache = [], []

    def _cut(self, rows: Sequence[Sequence[int]], unread: int) -> None:
        """Cut the KV of the batch so that each row lacks this number of its tokens, and no other.

        `rows` has the tokens of each row.
        """
        counts: list[int] = []
        for uid, tokens in zip(self._batch, rows, strict=True):
            held = self._rows[uid]
            counts.append(held.read + len(held.drafted) - (len(tokens) - unread))
        drop_last(self._cache, counts)
        if free_columns(self._cache) < BEHIND + WIDTHS[-1]:
            close_gap(self._cache, max(map(len, rows)) - unread)

    def _draw(self, asks: Sequence[DraftAsk], width: int, count: int) -> list[list[int]]:
        """Return the next tokens of each row, which the KV of the batch lacks `width` tokens of."""
        samplers = [ask.sampler for ask in asks]
        inputs = mx.array([[*ask.tokens[len(ask.tokens) + 1 - width :], ask.last] for ask in asks])
        drawn: list[mx.array] = []
        for _ in range(count):
            logprobs, _ = normalized(self._fitted(self._logits(inputs, self._cache)[:, -1, :]))
            drawn.append(sample_rows(logprobs, samplers))
            inputs = drawn[-1][:, None]
        tokens: list[list[int]] = mx.stack(drawn, axis=1).tolist()  # type: ignore[assignment]
        for sampler in samplers:
            sampler.take_back(count)
        return tokens

    def _logits(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        """Return the logits of the draft model, which may have fewer tokens than the engine's."""
        logits: mx.array = self._model(mx.minimum(tokens, self._last_token), cache=cache)
        return logits

    def _fitted(self, logits: mx.array) -> mx.array:
        """Return the logits with the width of the engine's own: a sampled token depends on it."""
        missing = self._vocabulary - logits.shape[-1]
        if missing > 0:
            return mx.pad(logits, [(0, 0), (0, missing)], constant_values=-mx.inf)
        return logits[:, : self._vocabulary]
