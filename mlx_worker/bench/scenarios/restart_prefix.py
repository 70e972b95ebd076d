"""The first token behind a long system prompt after a restart, which a node reads from disk.

[bench]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import (
    Kind,
    Scenario,
    Stage,
    SyntheticModel,
    complaints,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.bench.answer import MeasuredAnswer

COLD, RESTARTED, AGAIN = "cold", "restarted", "memory"


class RestartPrefix(Scenario, frozen=True, kw_only=True):
    """System prompts of about `tokens` tokens: new, after a restart, and once more after that.

    A word of the prompts is a token of the synthetic models; a real model's tokens are counted by
    the figure `prompt_tokens`.
    """

    tokens: tuple[int, ...] = (4000, 15_000)
    answer: int = 8
    warm_up: int = 600
    synthetic: SyntheticModel = "tiny"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"disk", "peer"})
    fresh: ClassVar[bool] = True
    lives: ClassVar[int] = 2

    async def run(self, stage: Stage) -> Sample:
        """Return times to a first token: of new prompts, or of the same after a restart."""
        systems = [stage.prompts.system(tokens) for tokens in self.tokens]

        async def ask(messages: Sequence[dict[str, str]]) -> MeasuredAnswer:
            return await stage.client.ask(LoadRequest(messages, self.answer))

        answers = [await ask([stage.prompts.user(self.warm_up)])]
        figures: dict[str, float] = {}
        for name in (COLD,) if stage.life == 0 else (RESTARTED, AGAIN):
            for tokens, system in zip(self.tokens, systems, strict=True):
                answer = await ask([system, stage.prompts.user(12)])
                answers.append(answer)
                figures[f"{name}_{tokens}"] = 1000 * answer.ttft
                figures[f"prompt_{tokens}"] = float(answer.prompt_tokens)
                if name == RESTARTED and answer.cached_tokens is not None and answer.prompt_tokens:
                    share = 100 * answer.cached_tokens / answer.prompt_tokens
                    figures[f"restarted_share_{tokens}"] = share
        return Sample(figures, complaints=complaints(answers))

    def joined(self, samples: Sequence[Sample]) -> Sample:
        """Return the figures of both lives, and how many times faster the first token came."""
        sample = super().joined(samples)
        figures = sample.figures
        for tokens in self.tokens:
            cold = figures.get(f"{COLD}_{tokens}")
            for name in (RESTARTED, AGAIN):
                if cold is not None and (warm := figures.get(f"{name}_{tokens}")):
                    figures[f"gain_{name}_{tokens}"] = cold / warm
        return sample
