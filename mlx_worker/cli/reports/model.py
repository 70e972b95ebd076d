"""Everything that a node reports of one model, for `inspect`.

[front]
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mlx_worker.cli.client.model_names import entries_of, unknown_among
from mlx_worker.cli.reports.status import cached_share, span, state_in_words
from mlx_worker.config.sizes import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlx_worker.cli.client import NodeClient


async def inspected(node: NodeClient, name: str) -> dict[str, Any]:
    """Return the facts of a model, by its id or an alias. Raises UnknownModel.

    They are the model's parts of `/v1/models`, `/health` and `/cache`. A node that
    has given up every model lists none, and then knows the model by its id alone.
    """
    entries = await entries_of(node, name)
    id_ = entries[0]["root"] if entries else name
    models = (await node.health())["models"]
    if id_ not in models:
        raise unknown_among("the node", name, list(models))
    report = models[id_]
    return {
        "id": id_,
        "aliases": [entry["id"] for entry in entries if entry["id"] != id_],
        **report,
        "contextLength": entries[0]["context_length"] if entries else report["contextLength"],
        "cache": await node.get("/cache", model=id_),
    }


def facts_in_words(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values for people, without facts that are unknown."""
    return [(name, value) for name, value in _facts(facts) if value]


def _facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    entered = facts["enteredAt"].get(facts["state"])
    since = f", for {span(time.time() - entered / 1000)}" if entered else ""
    yield "model", facts["id"]
    yield "aliases", ", ".join(facts["aliases"])
    yield "status", facts["status"]
    yield "state", f"{state_in_words(facts)}{since}"
    yield "reason", facts["reason"]
    for warning in facts["warnings"]:
        yield "warning", warning
    yield "process", str(facts["pid"] or "")
    yield "restarts", str(facts["restarts"])
    if last_exit := facts["last_exit"]:
        yield "last exit", f"{last_exit['how']}, {_moment(last_exit['at'])}"
    yield "context", f"{facts['contextLength']} tokens" if facts["contextLength"] else ""
    yield "batching", f"one request at a time: {facts['unbatched']}" if facts["unbatched"] else ""
    yield "speculation", f"off: {off}" if (off := facts["speculation"]["off"]) else ""
    if draft := facts["speculation"]["draftModel"]:
        yield "draft model", f"off: {draft['off']}" if draft["off"] else ""
    yield "weights in", facts["dtype"]
    yield "matrix products", facts["blas"]
    yield from _memory(facts)
    yield from _requests(facts)


def _memory(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    memory = facts["memory"]
    for name, key in (
        ("memory", "residentBytes"),
        ("weights", "weightBytes"),
        ("expected memory", "expectedBytes"),
        ("memory for KV", "kvBudgetBytes"),
    ):
        yield name, in_words(memory[key]) if memory[key] else ""
    if facts["loadSeconds"]:
        yield "load time", f"{facts['loadSeconds']:.1f} s"


def _requests(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    metrics, cache = facts["metrics"], facts["cache"]
    yield (
        "requests",
        (
            f"{facts['running']} running, {facts['queueDepth']} in the queue,"
            f" {metrics['totalRequests']} done, {metrics['avgLatency']:.0f} ms on average"
        ),
    )
    if share := cached_share(metrics):
        yield "prompt tokens", f"{metrics['promptTokens']}, {share} of them cached"
    yield "generated tokens", str(metrics["generatedTokens"])
    yield (
        "prompt cache",
        (
            f"{cache['entries']} entries, {cache['warmed']} of them warmed,"
            f" {in_words(cache['bytes'])} of {in_words(cache['capacity'])}"
        ),
    )
    yield "system prompts", f"{cache['hitRate']:.0%} of requests found theirs in the cache"
    if disk := cache.get("disk"):  # a node of an earlier version has none
        yield from _disk(disk, cache["hitsBySource"])


def _disk(disk: Mapping[str, Any], hits: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    yield "KV on disk", f"off: {disk['off']}" if disk["off"] else ""
    if disk["enabled"]:
        yield "on disk", f"{disk['records']} records, {in_words(disk['bytes'])}"
        yield "cached requests", f"{hits['memory']} from memory, {hits['disk']} from disk"
        yield "prefill saved", f"{span(disk['secondsSaved'])} by KV on disk"


def _moment(ms: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))
