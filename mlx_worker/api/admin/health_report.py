"""Say why a node or a model is not healthy, and keep health bodies small with many models.

Routers poll `/v1/cluster/health` every few seconds, and a body over 14 kB costs them a connection
each time.

[front]
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
    from mlx_worker.supervisor.model_status import ModelStatus

MAX_BYTES: Final = 12_000
"""Size of a body that routers poll."""

MAX_REASON: Final = 160
"""Characters of a reason in a brief report."""

MAX_NAMED_MODELS: Final = 3
"""Models that the node's own reason names."""


# --- reasons ------------------------------------------------------------------------------


def model_reason(model: ModelStatus, status: Status, stats: RequestStats) -> str:
    """Return why a model does not run or is not healthy, or why its process was restarted last."""
    if model.state is State.READY and status != "healthy":
        return stats.reason
    if model.start_blocked_by is not None and model.state is not State.FAILED:
        return model.start_blocked_by.message
    parts = [model.reason]
    if model.state is State.BACKOFF:
        parts.append("{} of {} ends".format(*model.recent_ends))
    if model.next_try is not None:
        parts.append(f"next try in {_seconds_until(model.next_try)} s")
    text = "; ".join(part for part in parts if part)
    return text or ("" if status == "healthy" else f"the model is {model.state.value}")


def node_reason(
    status: Status, own_reason: str, models: Mapping[str, tuple[Status, str]], *, draining: bool
) -> str:
    """Return why the node is not healthy; "" where the node is."""
    if draining:
        return "the node is draining"
    if status == "healthy":
        return ""
    unhealthy = [
        f"{id_}: {_shortened(reason)}"
        for id_, (of_model, reason) in models.items()
        if of_model not in ("healthy", "offline")
    ]
    more = (
        [f"and {len(unhealthy) - MAX_NAMED_MODELS} more models"]
        if len(unhealthy) > MAX_NAMED_MODELS
        else []
    )
    return "; ".join([*filter(None, [own_reason]), *unhealthy[:MAX_NAMED_MODELS], *more])


def next_try_ms(next_try: float | None) -> float | None:
    """Return a moment of the event loop's clock in ms since the epoch; None: nothing is due."""
    if next_try is None:
        return None
    return (time.time() + next_try - asyncio.get_running_loop().time()) * 1000


def _seconds_until(at: float) -> int:
    return max(0, math.ceil(at - asyncio.get_running_loop().time()))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"


# --- size ---------------------------------------------------------------------------------


def brief(body: dict[str, Any]) -> dict[str, Any]:
    """Return a health body with only status, state and reason of each model, unhealthy ones first.

    Models that would make the body too large are counted in `modelsLeftOut`.
    """
    bytes_left = MAX_BYTES - len(encode(body | {"models": {}}))
    models: dict[str, Any] = {}
    for id_, entry in _unhealthy_first(body["models"].items()):
        short = {"status": entry["status"], "state": entry["state"]}
        if entry["status"] != "healthy":
            short |= {"reason": _shortened(entry["reason"]), "nextTry": entry["nextTry"]}
        bytes_left -= len(encode({id_: short}))
        if bytes_left < 0:
            break
        models[id_] = short
    return body | {"models": models, "modelsLeftOut": len(body["models"]) - len(models)}


def encoded_within_limit(body: dict[str, Any]) -> bytes:
    """Return a health body as JSON, shortened by `brief` where it would be too large."""
    whole = encode(body)
    return whole if len(whole) <= MAX_BYTES else encode(brief(body))


def _unhealthy_first(entries: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(entries, key=lambda entry: entry[1]["status"] in ("healthy", "offline"))
