"""The batch loop: mlx_lm's BatchGenerator, admitted to and cancelled from between any two steps.

One engine, one model, one thread: whoever calls these methods owns every mlx call. `admit` says
`Started` before any prefill; `step` runs one decode step and at most one prefill chunk and says
what came of it, all sequences in one `Step`. What a request leaves behind, finished or cancelled,
goes to the prompt cache. [child]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from mlx_worker.engine.logprobs import read_logprobs
from mlx_worker.engine.prompt import Prompt
from mlx_worker.engine.prompt_cache import PromptCache
from mlx_worker.engine.sampling import make_processors, make_sampler
from mlx_worker.engine.text import TextStream
from mlx_worker.errors import ContextLengthExceeded, InvalidRequest
from mlx_worker.wire import messages as m

PREFILL_STEP = 512
"""Prompt tokens a chunk: the longest that a running stream waits for somebody's prefill."""

Said = m.Started | m.Prefill | m.Step | m.Done | m.Warmed


@dataclass(slots=True)
class _Sequence:
    """One row from admission to its last word."""

    id: int
    uid: int
    prompt: Prompt
    cached: int
    text: TextStream | None
    """None: nothing is generated, the head is to be warmed."""
    logprobs: int | None = None
    produced: int = 0

    @property
    def head_is_new(self) -> bool:
        return self.cached < self.prompt.head


class Engine:
    """Generations in, wire messages out."""

    def __init__(
        self, model: Any, tokenizer: Any, *, context_length: int, max_concurrency: int
    ) -> None:
        self.cache = PromptCache()
        self.context_length = context_length
        self.prefilled_tokens = 0
        self.decode_steps = 0
        self._tokenizer = tokenizer
        self._vocabulary = len(tokenizer)
        self._batch = BatchGenerator(
            model,
            stop_tokens=[[token] for token in tokenizer.eos_token_ids],
            completion_batch_size=max_concurrency,
            prefill_batch_size=min(8, max_concurrency),
            prefill_step_size=PREFILL_STEP,
        )
        self._by_uid: dict[int, _Sequence] = {}
        self._by_id: dict[int, _Sequence] = {}

    @property
    def active(self) -> int:
        """Sequences that are not finished."""
        return len(self._by_id)

    # --- in ---

    def admit(self, id_: int, request: m.ChatRequest, prompt: Prompt) -> m.Started:
        """Take a request into the batch.

        Raises ContextLengthExceeded or InvalidRequest, with the numbers, before any work.
        """
        room = self._room(prompt, request.max_tokens)
        self._check_bias(request.sampling.logit_bias)
        return self._insert(
            id_,
            prompt,
            TextStream(self._tokenizer, request.stop),
            max_tokens=room,
            logprobs=request.logprobs,
            sampler=make_sampler(request.sampling, self._vocabulary),
            processors=make_processors(request.sampling),
        )

    def admit_warm(self, id_: int, head: list[int], system_prompt: str) -> m.Warmed | None:
        """Have this head prefilled and kept; the answer at once if it is resident already.

        Raises ContextLengthExceeded.
        """
        if len(head) >= self.context_length:
            raise ContextLengthExceeded(
                f"the system prompt has {len(head)} tokens; "
                f"the model's context is {self.context_length}"
            )
        # The batch reads all but the last token of a prompt before it decodes: one is put behind
        # the head for it, and is never read.
        prompt = Prompt([*head, 0], len(head), system_prompt)
        with mx.stream(self._batch.stream):
            kv, cached = self.cache.fetch(prompt.tokens)
        if kv is not None and cached == len(head):
            self._store_warm(prompt, head, kv)
        if cached == len(head):
            return m.Warmed(id_, len(head))
        self._insert(id_, prompt, None, max_tokens=1)
        return None

    def cancel(self, id_: int) -> m.Done | None:
        """Free a row now, keeping what it has read. None: there is no such row."""
        sequence = self._by_id.get(id_)
        if sequence is None:
            return None
        self._remove(sequence, keep=True)
        return m.Done(id_, "cancelled", sequence.produced, "")

    # --- on ---

    def step(self) -> list[Said]:
        """One decode step for all, then at most one chunk of prefill."""
        prompts, generated = self._batch.next()
        said: list[Said] = []
        for response in prompts:
            said += self._prefilled(response)
        if generated:
            self.decode_steps += 1
            rows: list[m.Row] = []
            ends: list[Said] = []
            for response in generated:
                sequence = self._by_uid[response.uid]
                rows.append(self._row(sequence, response))
                end = self._end(sequence, response)
                if end is not None:
                    ends.append(end)
            said.append(m.Step(rows))
            said += ends
        return said

    def clear_cache(self) -> None:
        """Forget every cached prompt; running rows keep theirs."""
        self.cache.clear()
        mx.clear_cache()

    # --- inside ---

    def _room(self, prompt: Prompt, max_tokens: int | None) -> int:
        used = len(prompt.tokens)
        left = self.context_length - used
        if left < 1 or (max_tokens is not None and max_tokens > left):
            asked = "an answer" if max_tokens is None else f"{max_tokens} more"
            raise ContextLengthExceeded(
                f"the prompt has {used} tokens and asks for {asked}; "
                f"the model's context is {self.context_length}",
                param="messages" if left < 1 else "max_tokens",
            )
        return left if max_tokens is None else max_tokens

    def _check_bias(self, bias: dict[int, float]) -> None:
        for token in bias:
            if not 0 <= token < self._vocabulary:
                raise InvalidRequest(
                    f"logit_bias names token {token}; the vocabulary has {self._vocabulary}",
                    param="logit_bias",
                )

    def _insert(
        self,
        id_: int,
        prompt: Prompt,
        text: TextStream | None,
        *,
        max_tokens: int,
        logprobs: int | None = None,
        sampler: Any = None,
        processors: list[Any] | None = None,
    ) -> m.Started:
        with mx.stream(self._batch.stream):
            kv, cached = self.cache.fetch(prompt.tokens)
        boundary = max(prompt.head, cached)
        (uid,) = self._batch.insert_segments(
            [[prompt.tokens[cached:boundary], prompt.tokens[boundary:]]],
            [max_tokens],
            caches=[kv],
            all_tokens=[prompt.tokens[:cached]],
            samplers=[sampler],
            logits_processors=[processors or []],
        )
        sequence = _Sequence(id_, uid, prompt, cached, text, logprobs)
        self._by_uid[uid] = self._by_id[id_] = sequence
        hit = prompt.head > 0 and not sequence.head_is_new
        return m.Started(id_, len(prompt.tokens), cached, hit)

    def _prefilled(self, response: Any) -> list[Said]:
        sequence = self._by_uid[response.uid]
        done, total = response.progress
        said: list[Said] = [m.Prefill(sequence.id, sequence.cached + done, sequence.cached + total)]
        head_done = response.end_of_segment and sequence.cached + done == sequence.prompt.head
        if sequence.text is None:
            if head_done:
                kv, tokens = self._extract(sequence)
                self._remove(sequence, keep=False)
                self._store_warm(sequence.prompt, tokens, kv)
                said.append(m.Warmed(sequence.id, len(tokens)))
        elif response.end_of_prompt:
            self.prefilled_tokens += total
            self.cache.used(sequence.prompt.head, sequence.prompt.system)
        elif head_done and sequence.head_is_new:
            self._keep(sequence, "system")
        return said

    def _row(self, sequence: _Sequence, response: Any) -> m.Row:
        sequence.produced += 1
        token = int(response.token)
        text = sequence.text
        assert text is not None
        released = "" if response.finish_reason == "stop" else text.add(token)
        return m.Row(sequence.id, [token], released, self._logprobs(sequence, response))

    def _logprobs(self, sequence: _Sequence, response: Any) -> list[m.TokenLogprobs]:
        if sequence.logprobs is None or response.finish_reason == "stop":
            return []
        with mx.stream(self._batch.stream):
            return [
                read_logprobs(self._tokenizer, response.logprobs, response.token, sequence.logprobs)
            ]

    def _end(self, sequence: _Sequence, response: Any) -> m.Done | None:
        text = sequence.text
        assert text is not None
        if response.finish_reason is not None:
            self._forget(sequence)
            self._store(response.all_tokens, response.prompt_cache, "assistant")
            rest = "" if text.stopped else text.finish()
            finish: m.FinishReason = "stop" if text.stopped else response.finish_reason
            return m.Done(sequence.id, finish, sequence.produced, rest)
        if text.stopped:
            self._remove(sequence, keep=True)
            return m.Done(sequence.id, "stop", sequence.produced, "")
        return None

    def _remove(self, sequence: _Sequence, *, keep: bool) -> None:
        if keep:
            self._keep(sequence, "assistant")
        self._forget(sequence)
        self._batch.remove([sequence.uid])

    def _forget(self, sequence: _Sequence) -> None:
        del self._by_uid[sequence.uid], self._by_id[sequence.id]

    # --- what is left behind ---

    def _keep(self, sequence: _Sequence, kind: str) -> None:
        kv, tokens = self._extract(sequence)
        self._store(tokens, kv, kind)

    def _store_warm(self, prompt: Prompt, tokens: list[int], kv: list[Any]) -> None:
        self._detach(kv)
        self.cache.keep_warm(tokens, kv)
        self.cache.used(len(tokens), prompt.system)

    def _extract(self, sequence: _Sequence) -> tuple[list[Any], list[int]]:
        with mx.stream(self._batch.stream):
            kv, tokens = self._batch.extract_cache([sequence.uid])[sequence.uid]
        return kv, tokens

    def _store(self, tokens: list[int], kv: list[Any], kind: str) -> None:
        if tokens:
            self._detach(kv)
            self.cache.keep(tokens, kv, kind)

    def _detach(self, kv: list[Any]) -> None:
        """Evaluate, or the lazy slice would keep the whole batch's KV alive and in the way."""
        with mx.stream(self._batch.stream):
            mx.eval([layer.state for layer in kv])
