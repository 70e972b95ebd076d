"""What a forward pass costs by its rows and its width, measured once after the load.

A wide pass pays where a model waits for its weights, and does not where it waits for arithmetic.
So a measurement decides whether rows draft at all, and how many tokens. Where rows would draft, how
passes round is measured too. [child]
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import mlx.core as mx
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlx_worker.engine.batch_support import unbatched_because
from mlx_worker.engine.speculation.rounding import rounding_because
from mlx_worker.wire.messages import PassCost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

WIDTHS: Final = (1, 2, 4, 8)
ROWS: Final = (1, 4, 8)
WORTH: Final = 1.15
"""How many times as fast decoding has to become if all drafts are right."""
TRIES: Final = 2
"""Passes of a rung that count, after a first one that also compiles kernels."""
SLOW: Final = 1.0
"""Seconds of a first pass that counts by itself: what it compiled is little of it."""
LONGEST: Final = 1.5
"""Seconds after which no further number of rows is measured."""


@dataclass(frozen=True)
class Ladder:
    """Seconds of a forward pass by (rows, width); `because` says why no row drafts, or is "".

    `clock` is what the seconds were measured by.
    """

    seconds: Mapping[tuple[int, int], float]
    because: str = ""
    clock: Callable[[], float] = time.perf_counter
    _costs: dict[tuple[int, int], float] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What was asked for before: a step asks for one cost, one that could draft for nine."""

    @property
    def pass_costs(self) -> list[PassCost]:
        """Return the measured forward passes."""
        return [PassCost(*of, seconds) for of, seconds in self.seconds.items()]

    def cost(self, rows: int, width: int) -> float:
        """Return the seconds of a forward pass, between and beyond what was measured too."""
        known = self._costs.get((rows, width))
        if known is None:
            known = self._costs[rows, width] = self._cost(rows, width)
        return known

    def _cost(self, rows: int, width: int) -> float:
        measured = sorted({of for of, _ in self.seconds})
        if len(measured) == 1:
            return self._of(measured[0], width) * rows / measured[0]
        upper = next((of for of in measured[1:] if of >= rows), measured[-1])
        lower = measured[measured.index(upper) - 1]
        share = (rows - lower) / (upper - lower)
        low, high = self._of(lower, width), self._of(upper, width)
        return low + (high - low) * share

    def _of(self, rows: int, width: int) -> float:
        """Return the seconds of this width with a number of rows that was measured."""
        known = [of for of in WIDTHS if (rows, of) in self.seconds]
        upper = next((of for of in known if of >= width), known[-1])
        if upper == width or len(known) == 1:
            return self.seconds[rows, upper] * width / upper
        lower = known[known.index(upper) - 1]
        low, high = self.seconds[rows, lower], self.seconds[rows, upper]
        return low + (high - low) * (width - lower) / (upper - lower)

    def best_gain(self, rows: int) -> float:
        """Return how many times as fast these rows decode if all drafts are right."""
        return max(width * self.cost(rows, 1) / self.cost(rows, width) for width in WIDTHS)


def ladder_of(
    model: Any,
    rows: int,
    speculation: Literal["auto", "on", "off"],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Ladder:
    """Return the ladder of a model that was loaded just now, with the configured setting."""
    if speculation == "off":
        return Ladder({}, 'the configuration has speculation = "off"')
    ladder = measure_ladder(model, rows, clock=clock)
    if ladder.because:
        return ladder
    layers, as_batches = make_prompt_cache(model), speculation == "on"
    because = rounding_because(model, layers, WIDTHS, as_batches=as_batches)
    mx.clear_cache()  # the memory of a process is measured after its load
    return replace(ladder, because=because)


def are_cuttable(layers: Iterable[Any]) -> bool:
    """Return True if rejected drafts can be cut from a cache with these layers."""
    return all(isinstance(layer, KVCache) for layer in layers)


def measure_ladder(
    model: Any, rows: int, *, clock: Callable[[], float] = time.perf_counter
) -> Ladder:
    """Measure forward passes of up to `rows` rows; stop where wide passes cannot pay.

    A model whose KV cannot be cut at any token is not measured: a rejected draft stays in it.
    """
    if because := unbatched_because(model):
        return Ladder({}, f"the model takes no batch: {because}")
    layers = make_prompt_cache(model)
    if not are_cuttable(layers):
        return Ladder({}, "the model's KV cannot be cut at any token")
    seconds: dict[tuple[int, int], float] = {}
    begun = clock()
    for count in dict.fromkeys(min(of, rows) for of in ROWS):
        cache = [layer.merge([layer] * count) for layer in layers]
        for width in WIDTHS:
            tokens = mx.zeros((count, width), dtype=mx.int32)
            seconds[count, width] = took = fastest_pass(model, tokens, cache, clock)
            for narrower in WIDTHS[: WIDTHS.index(width)]:
                # What disturbed a pass was no part of its cost.
                seconds[count, narrower] = min(seconds[count, narrower], took)
            if width > 1 and seconds[count, width] > width * seconds[count, 1] / WORTH:
                break  # and a wider pass is no better
        if clock() - begun > LONGEST:
            break
    del cache
    mx.clear_cache()  # the memory of a process is measured after its load
    ladder = Ladder(seconds, clock=clock)
    if max(ladder.best_gain(of) for of, _ in seconds) >= WORTH:
        return ladder
    widest = max(width for of, width in seconds if of == 1)
    times = seconds[1, widest] / seconds[1, 1]
    return Ladder(
        seconds, f"a forward pass of {widest} tokens takes {times:.2g} times as long as one of 1"
    )


def fastest_pass(
    model: Any, tokens: mx.array, cache: list[Any], clock: Callable[[], float]
) -> float:
    """Return the seconds of the fastest of some equal passes, the first one apart."""
    seconds: list[float] = []
    while len(seconds) <= TRIES and max(seconds, default=0) < SLOW:
        begun = clock()
        mx.eval(model(tokens, cache=cache))
        seconds.append(clock() - begun)
        for layer in cache:
            layer.trim(tokens.shape[1])
    return min(seconds[1:] or seconds)
