"""Why a node or a model is not healthy, and a health body that stays small with many models.

Routers poll `/v1/cluster/health` every few seconds, and a body over 14 kB costs them a connection
each time. [front]
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, Final

from mlx_worker.json_output import encode
from mlx_worker.supervisor.process.states import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlx_worker.health import RequestStats, Status
    from mlx_worker.supervisor.node import Served
    from mlx_worker.supervisor.process.child import Child

MOST_BYTES: Final = 12_000
"""Of a body that routers poll."""

MOST_OF_A_REASON: Final = 160
"""Characters of a reason in a brief report."""

MOST_NAMED: Final = 3
"""Models that the node's own reason names."""


# --- reasons ------------------------------------------------------------------------------


def model_reason(served: Served, word: Status, stats: RequestStats) -> str:
    """Return why a model does not run or is not healthy, or why it was restarted last."""
    child = served.child
    if child.state is State.READY and word != "healthy":
        return stats.reason
    if child.held_back is not None and child.state is not State.FAILED:
        return child.held_back.message
    parts = [child.reason]
    if child.state is State.BACKOFF:
        parts.append("{} of {} ends".format(*child.ends))
    if child.next_try is not None:
        parts.append(f"next try in {_seconds_until(child.next_try)} s")
    text = "; ".join(part for part in parts if part)
    return text or ("" if word == "healthy" else f"the model is {child.state.value}")


def node_reason(
    word: Status, own: str, models: Mapping[str, tuple[Status, str]], *, draining: bool
) -> str:
    """Return why the node is not healthy; "" where the node is."""
    if draining:
        return "the node is draining"
    if word == "healthy":
        return ""
    unwell = [
        f"{id_}: {_shortened(reason)}"
        for id_, (status, reason) in models.items()
        if status not in ("healthy", "offline")
    ]
    more = [f"and {len(unwell) - MOST_NAMED} more models"] if len(unwell) > MOST_NAMED else []
    return "; ".join([*filter(None, [own]), *unwell[:MOST_NAMED], *more])


def next_try_ms(child: Child) -> float | None:
    """Return when the child is started again, in ms since the epoch; None: nothing is due."""
    if child.next_try is None:
        return None
    return (time.time() + child.next_try - asyncio.get_running_loop().time()) * 1000


def _seconds_until(at: float) -> int:
    return max(0, math.ceil(at - asyncio.get_running_loop().time()))


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_OF_A_REASON else text[: MOST_OF_A_REASON - 1] + "…"


# --- size ---------------------------------------------------------------------------------


def brief(body: dict[str, Any]) -> dict[str, Any]:
    """Return a health body with a word, a state and a reason a model; unhealthy models first.

    Models that would make the body too large are only counted, in `modelsLeftOut`.
    """
    room = MOST_BYTES - len(encode(body | {"models": {}}))
    models: dict[str, Any] = {}
    for id_, entry in _unwell_first(body["models"].items()):
        short = {"status": entry["status"], "state": entry["state"]}
        if entry["status"] != "healthy":
            short |= {"reason": _shortened(entry["reason"]), "nextTry": entry["nextTry"]}
        room -= len(encode({id_: short}))
        if room < 0:
            break
        models[id_] = short
    return body | {"models": models, "modelsLeftOut": len(body["models"]) - len(models)}


def encoded_within_limit(body: dict[str, Any]) -> bytes:
    """Return a health body as JSON: whole where that is small, else brief."""
    whole = encode(body)
    return whole if len(whole) <= MOST_BYTES else encode(brief(body))


def _unwell_first(entries: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(entries, key=lambda entry: entry[1]["status"] in ("healthy", "offline"))
