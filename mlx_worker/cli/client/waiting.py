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

FAILED_GRACE: Final = 5.0
"""Seconds in which a failed model leaves that state, or has failed again without a new report: a
folder that cannot be used is inspected without a change of state."""

GOALS: Final = {"load": "ready", "restart": "ready", "unload": "stopped"}
"""The state that each verb leads to."""


async def act_and_wait(
    node: NodeClient,
    model: str,
    verb: str,
    *,
    limit: float | None,
    on_state: Callable[[str, Mapping[str, Any]], None],
    grace: float = FAILED_GRACE,
) -> dict[str, Any]:
    """Send a verb for a model, and return the model's report once the verb has led to its goal.

    `on_state` gets (id, report) for every new state. Raises ModelFailed where the model failed
    after the verb, or stays failed for `grace` seconds; NotInTime after `limit` seconds (None: no
    limit), and what `NodeClient.act` raises.
    """
    before = (await node.health())["models"]
    id_ = await node.act(model, verb)
    clock = asyncio.get_running_loop().time
    accepted, latest = clock(), ""
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
                if entry["state"] == "failed" and (
                    clock() - accepted >= grace or _is_new("failed", entry, before.get(id_))
                ):
                    raise ModelFailed(f"{id_} failed: {entry['reason']}")
                await asyncio.sleep(POLL_INTERVAL)
    except TimeoutError as error:
        raise NotInTime(
            f"{id_} is not {GOALS[verb]} after {limit:g} s; `mlx-worker status` shows the progress"
        ) from error


def _is_done(verb: str, entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    """Return True if the goal is reached: by a restart, later than `before`."""
    goal = GOALS[verb]
    return entry["state"] == goal and (verb != "restart" or _is_new(goal, entry, before))


def _is_new(state: str, entry: Mapping[str, Any], before: Mapping[str, Any] | None) -> bool:
    return before is None or entry["enteredAt"].get(state) != before["enteredAt"].get(state)
