"""Wait until a model has the state that a command asked for.

[front]
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import ModelFailed, NotInTime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlx_worker.cli.client.node_client import NodeClient

POLL_INTERVAL: Final = 0.2
"""Seconds between two reports. A report costs the node less than a millisecond."""

SAME_MOMENT: Final = 100
"""Milliseconds by which a report of one moment may differ from the next report of it."""

GOALS: Final = {"load": "ready", "restart": "ready", "unload": "stopped"}
"""The state that each verb leads to."""


async def act_and_wait(
    node: NodeClient,
    model: str,
    verb: str,
    *,
    limit: float | None,
    on_state: Callable[[str, Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Send a verb for a model, and return the model's report once the verb has led to its goal.

    `on_state` gets (id, report) for every new state. Raises ModelFailed where the model failed,
    NotInTime after `limit` seconds (None: no limit), and what `NodeClient.act` raises.
    """
    before = (await node.health())["models"]
    id_ = await node.act(model, verb)
    latest = ""
    try:
        async with asyncio.timeout(limit):
            while True:
                entry: dict[str, Any] = (await node.health())["models"].get(id_, {})
                if not entry:
                    raise ModelFailed(f"{id_} was removed from the node")
                if entry["state"] != latest:
                    latest = entry["state"]
                    on_state(id_, entry)
                if _is_done(verb, entry, before.get(id_)):
                    return entry
                await asyncio.sleep(POLL_INTERVAL)
    except TimeoutError as error:
        raise NotInTime(
            f"{id_} is not {GOALS[verb]} after {limit:g} s; `mlx-worker status` shows the progress"
        ) from error


def _is_done(verb: str, entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    """Return True if the goal is reached. Raises ModelFailed if the model failed since `before`.

    A restart is done by a later entry into the goal's state than that of `before`.
    """
    if entry["state"] == "failed" and _has_failed_since(entry, before):
        raise ModelFailed(f"the model failed: {entry['reason']}")
    goal = GOALS[verb]
    if entry["state"] != goal:
        return False
    return verb != "restart" or _is_new(goal, entry, before)


def _has_failed_since(entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    """Return True if the failure is later than `before`.

    A model whose folder cannot be used stays failed; each attempt moves the time of the next one.
    """
    if before is None or _is_new("failed", entry, before):
        return True
    planned, planned_before = entry["nextTry"], before["nextTry"]
    if planned is None:
        return False
    return planned_before is None or bool(abs(planned - planned_before) > SAME_MOMENT)


def _is_new(state: str, entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    return before is None or entry["enteredAt"].get(state) != before["enteredAt"].get(state)
