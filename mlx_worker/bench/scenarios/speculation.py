"""Answers that repeat what is known, and prose: tokens/s with drafts, and without.

`speculation = "auto"` drafts only where wide passes move no logit, which is not so on every device.
So one node has "on" and the other one "off". [bench]
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import msgspec

from mlx_worker.bench.client import LoadRequest
from mlx_worker.bench.sample import Sample
from mlx_worker.bench.scenarios.scenario import Kind, Scenario, Stage, complaints
from mlx_worker.bench.scenarios.streams import side_by_side, throughput
from mlx_worker.bench.synthetic.tokenizer import WORDS

if TYPE_CHECKING:
    from mlx_worker.bench.answer import MeasuredAnswer
    from mlx_worker.bench.prompts import Prompts

Trace: TypeAlias = Literal["edit", "json", "prose"]

CHANGED_EVERY = 30
"""Words of an answer, of which its prediction has one wrong."""


class SpeculationGain(Scenario, frozen=True, kw_only=True):
    """Requests of one kind, with each number of `rows` at once; sizes in words and tokens.

    An `edit` brings its own answer as the prediction, with some other words. `json` is to be
    repeated from the prompt. `prose` is sampled, and nothing is known of it.
    """

    trace: Trace
    rows: tuple[int, ...] = (1, 4)
    requests: int = 4
    words: int = 60
    records: int = 6
    tokens: int = 256
    kinds: ClassVar[frozenset[Kind]] = frozenset({"drafts", "no drafts", "peer"})

    async def run(self, stage: Stage) -> Sample:
        """Measure the tokens/s of each number of rows; the prompts are in the cache by then."""
        figures: dict[str, float] = {}
        answers: list[MeasuredAnswer] = []
        for count in self.rows:
            lanes = [
                [await self._prepared(stage) for _ in range(self.requests)] for _ in range(count)
            ]
            measured = await side_by_side(stage.client, lanes)
            figures[f"throughput_{count}"] = throughput(measured)
            answers += measured
        tokens = sum(answer.completion_tokens for answer in answers)
        return Sample({"tokens": float(tokens)} | figures, complaints=complaints(answers))

    async def _prepared(self, stage: Stage) -> LoadRequest:
        """Return a request whose prompt the server has read."""
        ask = self._ask(stage.prompts)
        if self.trace != "edit":
            await stage.client.ask(replace(ask, max_tokens=1))
            return ask
        answer = await stage.client.ask(ask)
        return replace(ask, prediction=_changed(answer.text, stage.prompts))

    def _ask(self, prompts: Prompts) -> LoadRequest:
        match self.trace:
            case "edit":
                text = f"Correct the mistakes in this text:\n\n{prompts.words(self.words)}"
            case "json":
                text = f"Repeat these records as JSON:\n\n{_records(prompts, self.records)}"
            case "prose":
                text = f"Tell a story with these words:\n\n{prompts.words(self.words)}"
        temperature = 0.8 if self.trace == "prose" else 0.0
        seed = prompts.random.getrandbits(32)
        return LoadRequest(
            [{"role": "user", "content": text}], self.tokens, temperature=temperature, seed=seed
        )


def _changed(text: str, prompts: Prompts) -> str:
    """Return the text with another word in place of some."""
    words = text.split(" ")
    for place in range(CHANGED_EVERY // 2, len(words), CHANGED_EVERY):
        words[place] = prompts.random.choice(WORDS)
    return " ".join(words)


def _records(prompts: Prompts, count: int) -> str:
    """Return records that differ in few words, as JSON."""
    records = [
        {"id": number, "name": prompts.words(1), "place": prompts.words(1)}
        for number in range(count)
    ]
    return msgspec.json.encode(records).decode()
