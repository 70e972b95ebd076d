"""The memory of all models together, and each model's share of it for KV.

[front]
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlx_worker.supervisor.memory.policy import kv_budget

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlx_worker.supervisor.event_log import EventLog
    from mlx_worker.supervisor.model import ModelRuntime


class MemoryBudget:
    """The bytes that the processes of all models may take together: `limit`."""

    def __init__(self, limit: int, events: EventLog) -> None:
        self.limit = limit
        self._events = events

    def lower(self, working_set: int) -> bool:
        """Lower the limit to what a device recommends; return False if it is as low already."""
        if working_set >= self.limit:
            return False
        self._events.record(
            "memory limit", level=logging.WARNING, was=self.limit, working_set=working_set
        )
        self.limit = working_set
        return True

    def share_kv(self, models: Iterable[ModelRuntime]) -> None:
        """Set the KV budget of each model: what the model and the pinned ones leave."""
        claims = {model: model.memory_claim() for model in models}
        for model, claim in claims.items():
            others = [other for other in claims.values() if other is not claim]
            model.set_kv_budget(kv_budget(claim, others, self.limit))
