"""An agent at work: each turn sends the whole conversation, and the result of a tool.

[bench]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import (
    Scenario,
    Stage,
    SyntheticModel,
    complaints,
    milliseconds,
)

if TYPE_CHECKING:
    from mlx_worker.bench.answer import MeasuredAnswer


class Agent(Scenario, frozen=True, kw_only=True):
    """Turns behind a system prompt, each with the result of a tool; sizes in words."""

    turns: int = 20
    system: int = 1500
    result: int = 60
    tokens: int = 32
    synthetic: SyntheticModel = "tiny"

    async def run(self, stage: Stage) -> Sample:
        """Measure whether later turns pay for earlier ones."""
        messages = [stage.prompts.system(self.system), stage.prompts.user(20)]
        answers: list[MeasuredAnswer] = []
        for turn in range(self.turns):
            answer = await stage.client.ask(LoadRequest(messages, self.tokens))
            answers.append(answer)
            result = stage.prompts.words(self.result)
            messages = [*messages, *_called(f"call_{turn}", answer.text, result)]
        return Sample(_figures(answers), complaints=complaints(answers))


def _called(id_: str, said: str, result: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the message that calls a tool, and the message with the tool's result."""
    arguments = msgspec.json.encode({"id": id_}).decode()
    call = {"id": id_, "type": "function", "function": {"name": "look", "arguments": arguments}}
    return (
        {"role": "assistant", "content": said, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": id_, "content": result},
    )


def _figures(answers: list[MeasuredAnswer]) -> dict[str, float]:
    first, *later = answers
    figures = {
        "prompt_tokens": float(later[-1].prompt_tokens),
        "first_turn": 1000 * first.ttft,
        "turn_p50": milliseconds([answer.ttft for answer in later], 0.5),
        "turn_max": milliseconds([answer.ttft for answer in later], 1.0),
    }
    told = [item for item in later if item.cached_tokens is not None and item.prompt_tokens]
    if told:
        shares = [(item.cached_tokens or 0) / item.prompt_tokens for item in told]
        cached = sum(item.cached_tokens or 0 for item in told)
        figures["cached_share"] = 100 * cached / sum(item.prompt_tokens for item in told)
        figures["cached_share_min"] = 100 * min(shares)
    return figures
