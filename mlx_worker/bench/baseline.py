"""The baseline: mlx_lm's batch in one process, without a server around it.

`python -m mlx_worker.bench.baseline` reads a BaselineJob on stdin and writes a Sample on stdout.
Prompts, lengths and the number of rows are those of a server, and the next request of a stream
starts when the one before it is done. Tokens stay numbers; nothing is turned into text. This is the
only module of the bench that touches mlx. [bench]
"""

from __future__ import annotations

import os
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx_lm
import msgspec
from mlx_lm.generate import BatchGenerator

from mlx_worker.bench.job import BaselineJob
from mlx_worker.bench.processes import cpu_seconds, resident_megabytes
from mlx_worker.bench.prompts import Prompts
from mlx_worker.bench.sample import Sample

if TYPE_CHECKING:
    from mlx_worker.bench.client import LoadRequest

READERS = 8
"""Prompts read side by side: mlx_lm's own default."""


class _Batch:
    """Streams of requests through one BatchGenerator."""

    def __init__(self, folder: str, rows: int) -> None:
        self._model, self._tokenizer = mlx_lm.load(folder)
        self._rows = rows

    def run(self, asks: list[list[LoadRequest]]) -> int:
        """Run all requests and return the number of tokens."""
        batch = BatchGenerator(
            self._model,
            stop_tokens=[[token] for token in self._tokenizer.eos_token_ids],
            sampler=lambda logprobs: mx.argmax(logprobs, axis=-1),
            completion_batch_size=self._rows,
            prefill_batch_size=READERS,
        )
        streams: dict[int, Any] = {}
        for stream in map(iter, asks):
            self._next(batch, stream, streams)
        tokens = 0
        while streams:
            _, generated = batch.next()
            tokens += len(generated)
            for response in generated:
                if response.finish_reason is not None:
                    self._next(batch, streams.pop(response.uid), streams)
        return tokens

    def _next(self, batch: Any, stream: Any, streams: dict[int, Any]) -> None:
        ask = next(stream, None)
        if ask is not None:
            prompt = self._tokenizer.apply_chat_template(ask.messages, add_generation_prompt=True)
            (uid,) = batch.insert([prompt], [ask.max_tokens])
            streams[uid] = stream


def measure(job: BaselineJob) -> Sample:
    """Run a warm-up, then measure."""
    batch = _Batch(job.folder, job.rows)
    warm_up = job.scenario.asks(Prompts(f"{job.seed}/warm-up"))
    batch.run([stream[:1] for stream in warm_up])
    asks = job.scenario.asks(Prompts(job.seed))
    roles = {"engine": [os.getpid()]}
    used, start = cpu_seconds(roles), perf_counter()
    tokens = batch.run(asks)
    seconds = perf_counter() - start
    cpu = cpu_seconds(roles)["engine"] - used["engine"]
    return Sample(
        {
            "tokens": float(tokens),
            "throughput": tokens / seconds,
            "cpu": 1e6 * cpu / tokens,
            "resident": resident_megabytes(roles)["engine"],
        }
    )


def main() -> None:
    """Run one job."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=BaselineJob)
    sys.stdout.buffer.write(msgspec.json.encode(measure(job)))


if __name__ == "__main__":
    main()
