"""Make Prometheus metric families of plain figures.

[front]
"""

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
"""The names of labels, or their values in the same order."""

NO_LABELS: Final[Labels] = ()
"""The labels of a metric that the node has once."""

MODEL: Final = ("model",)
"""The labels of a metric that each model has."""

L = TypeVar("L", bound=Labels)


def gauge(
    name: str, help_text: str, labels: Labels, figures: Mapping[L, float]
) -> GaugeMetricFamily:
    """Return a metric that goes up and down."""
    family = GaugeMetricFamily(PREFIX + name, help_text, labels=labels)
    for values, figure in figures.items():
        family.add_metric(values, figure)
    return family


def counter(
    name: str, help_text: str, labels: Labels, figures: Mapping[L, float]
) -> CounterMetricFamily:
    """Return a metric that only goes up; its exposed name ends in `_total`."""
    family = CounterMetricFamily(PREFIX + name, help_text, labels=labels)
    for values, figure in figures.items():
        family.add_metric(values, figure)
    return family


def histogram(
    name: str, help_text: str, labels: Labels, figures: Mapping[L, Histogram]
) -> HistogramMetricFamily:
    """Return a metric of how often a value was how large."""
    family = HistogramMetricFamily(PREFIX + name, help_text, labels=labels)
    for values, figure in figures.items():
        buckets = [(_upper_bound(bound), count) for bound, count in figure.cumulative()]
        family.add_metric(values, buckets, figure.total)
    return family


def state_set(
    name: str, help_text: str, labels: Labels, states: Iterable[str], current: Mapping[L, str]
) -> StateSetMetricFamily:
    """Return a metric that is 1 for the current one of these states and 0 for the others."""
    family = StateSetMetricFamily(PREFIX + name, help_text, labels=labels)
    all_states: Sequence[str] = list(states)
    for values, state in current.items():
        family.add_metric(values, {other: other == state for other in all_states})
    return family


def _upper_bound(upper: float) -> str:
    return "+Inf" if upper == inf else str(float(upper))
