"""Calls side by side, for templates that know one call a turn.

Some templates raise where a turn has several calls (Llama 3), others show the first only (gpt-oss).
Such a turn becomes one turn a call, each with its results behind it. [child]
"""

from __future__ import annotations

from typing import Any, Final

Turn = dict[str, Any]

OF_THE_FIRST: Final = ("reasoning_content",)
"""Keys of a turn that came before its calls, and stay with the first of them."""


def with_single_calls(turns: list[Turn]) -> list[Turn]:
    """Return a conversation whose turns have one call each at most; `turns` are not changed."""
    single: list[Turn] = []
    place = 0
    while place < len(turns):
        turn = turns[place]
        place += 1
        if len(turn.get("tool_calls") or ()) < 2:  # noqa: PLR2004  (several)
            single.append(turn)
            continue
        behind = place
        while behind < len(turns) and turns[behind]["role"] == "tool":
            behind += 1
        single += _split(turn, turns[place:behind])
        place = behind
    return single


def _split(turn: Turn, results: list[Turn]) -> list[Turn]:
    """Return a turn for each call, followed by its results; results without a call come last."""
    later = {key: value for key, value in turn.items() if key not in OF_THE_FIRST}
    by_id: dict[Any, list[Turn]] = {}
    for result in results:
        by_id.setdefault(result.get("tool_call_id"), []).append(result)
    split: list[Turn] = []
    for nth, call in enumerate(turn["tool_calls"]):
        own = by_id.pop(call.get("id"), []) if isinstance(call, dict) else []
        split.append((later | {"content": ""} if nth else turn) | {"tool_calls": [call]})
        split += own
    return [*split, *(result for others in by_id.values() for result in others)]
