"""Prometheus' metric families from plain figures. [front]"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    StateSetMetricFamily,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlx_worker.histogram import Histogram

PREFIX: Final = "mlx_worker_"

Labels = tuple[str, ...]
"""Of names, or of values in the same order."""

L = TypeVar("L", bound=Labels)


def gauge(name: str, what: str, labels: Labels, figures: Mapping[L, float]) -> GaugeMetricFamily:
    """What goes up and down."""
    family = GaugeMetricFamily(PREFIX + name, what, labels=labels)
    for values, figure in figures.items():
        family.add_metric(values, figure)
    return family


def counter(
    name: str, what: str, labels: Labels, figures: Mapping[L, float]
) -> CounterMetricFamily:
    """What only goes up; the exposition says `…_total`."""
    family = CounterMetricFamily(PREFIX + name, what, labels=labels)
    for values, figure in figures.items():
        family.add_metric(values, figure)
    return family


def histogram(
    name: str, what: str, labels: Labels, figures: Mapping[L, Histogram]
) -> HistogramMetricFamily:
    """How often it was how large."""
    family = HistogramMetricFamily(PREFIX + name, what, labels=labels)
    for values, figure in figures.items():
        buckets = [(_bound(bound), times) for bound, times in figure.cumulative()]
        family.add_metric(values, buckets, figure.total)
    return family


def states(
    name: str, what: str, labels: Labels, all_: Iterable[str], now: Mapping[L, str]
) -> StateSetMetricFamily:
    """Which of all states it is in: 1 for that one, 0 for the others."""
    family = StateSetMetricFamily(PREFIX + name, what, labels=labels)
    every: Sequence[str] = list(all_)
    for values, state in now.items():
        family.add_metric(values, {it: it == state for it in every})
    return family


def _bound(upper: float) -> str:
    return "+Inf" if upper == inf else str(float(upper))
