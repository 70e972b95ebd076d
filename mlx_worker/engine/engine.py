"""The batch loop: mlx_lm's batch, admitted to and cancelled from between any two steps.

One engine, one model, one thread: whoever calls these methods owns every mlx call. `admit` says
`Started` before any prefill; `step` runs one decode step and at most one prefill chunk and says
what came of it, all sequences in one `Step`. What a request leaves behind, finished or cancelled,
goes to the prompt cache. [child]
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_worker.config.sizes import in_words
from mlx_worker.engine.batch import Batch
from mlx_worker.engine.batch_support import is_cuttable, logit_count, unbatched_because
from mlx_worker.engine.guard import computing
from mlx_worker.engine.output.end_tokens import (
    check_stop_tokens,
    ending_tokens,
    length_processors,
    stop_sequences,
)
from mlx_worker.engine.output.logprobs import read_logprobs
from mlx_worker.engine.output.markers import Markers
from mlx_worker.engine.output.text_stream import Released, TextStream
from mlx_worker.engine.prefill import (
    LARGEST_CHUNK,
    PAUSE,
    READERS,
    WORTH_WAITING,
    Pace,
    cuts,
    fits,
    follow,
    has_room,
    least_fetched,
    may_start,
)
from mlx_worker.engine.prompt import Prompt
from mlx_worker.engine.prompt_cache import MAX_BYTES, Kind, PromptCache
from mlx_worker.engine.prompt_scores import PromptScorer, check_scoring, most_scored
from mlx_worker.engine.sampling import Draw, make_processors
from mlx_worker.engine.sequence import Sequence
from mlx_worker.errors import (
    CacheError,
    ConstraintFailed,
    ContextLengthExceeded,
    InvalidRequest,
    KvTooLarge,
)
from mlx_worker.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlx_worker.engine.structured.constraint import Constraint

UNKNOWN_COST = m.KvCost()
Begun = m.Started | m.Warmed | m.Failed
Said = Begun | m.Prefill | m.PromptScores | m.Step | m.Done


def _ignore() -> None:
    """Take no notice of a step that was encoded."""


class Engine:
    """Generations in, wire messages out.

    On a GPU mlx may raise an error one step late. Tokens that `step` returned are known to be good
    once `on_encoded` was called, in the next step, or, where `is_unconfirmed` is false, once
    `confirm` has returned. After any error but a `WorkerError` nothing that the engine holds may be
    used again.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        context_length: int,
        max_concurrency: int,
        cache_bytes: int = MAX_BYTES,
        kv: m.KvCost = UNKNOWN_COST,
        kv_bytes: int | None = None,
        prefill_pause: float = PAUSE,
        on_encoded: Callable[[], None] = _ignore,
    ) -> None:
        self.cache = PromptCache(cache_bytes)
        self.context_length = context_length
        self.prefilled_tokens = 0
        self.decode_steps = 0
        self._model = model
        self._tokenizer = tokenizer
        self._markers = Markers(tokenizer)
        self._vocabulary = len(tokenizer)
        self.unbatched = unbatched_because(model)
        self._cuttable = is_cuttable(model)
        rows = 1 if self.unbatched else max_concurrency
        self._pace = Pace(prefill_pause)
        self._batch = Batch(
            model,
            on_read=self._pace.took,
            on_encoded=on_encoded,
            completion_batch_size=rows,
            # Those that have read all but the last token still count with mlx_lm's readers.
            prefill_batch_size=min(2 * READERS, rows),
            prefill_step_size=LARGEST_CHUNK,
        )
        self._kv = kv
        self._kv_bytes = kv_bytes
        self._by_uid: dict[int, Sequence] = {}
        self._by_id: dict[int, Sequence] = {}
        self._waiting: list[Sequence] = []

    @property
    def active(self) -> int:
        """Sequences that are not finished."""
        return len(self._by_id)

    @property
    def reads(self) -> bool:
        """Will the next step read a prompt?"""
        return bool(self._waiting) or any(it.reading for it in self._by_uid.values())

    @property
    def is_unconfirmed(self) -> bool:
        """True if `on_encoded` is to be waited for before what was returned is used."""
        return self._batch.errors_come_late and self._batch.decodes

    def confirm(self) -> None:
        """Raise the error of earlier work on a GPU, if there was one; does not wait."""
        if self._batch.errors_come_late:
            self._batch.confirm()

    # --- in ---

    def admit(
        self,
        id_: int,
        request: m.ChatRequest,
        prompt: Prompt,
        *,
        replay: list[int] | None = None,
        in_session: bool = False,
        constraint: Constraint | None = None,
        room: int | None = None,
    ) -> m.Started | m.Done | None:
        """Take a request in; None: it waits, and a later `step` says that it has started.

        `replay` are the tokens that a former child said: they are read like a prompt, and what
        follows is what would have followed; Done, if nothing does. What a request leaves behind
        is kept longer `in_session`. `constraint` is the request's, made by `constraints`. `room` is
        how many tokens a former child allowed the answer: this child may have less memory for the
        context, but an answer that was begun does not end earlier for that. Raises
        ContextLengthExceeded, KvTooLarge or InvalidRequest, with the numbers, before any work;
        ComputationFailed for what goes wrong in mlx.
        """
        said = replay or []
        room = self._room(prompt, request) if room is None else room
        self._check_bias(request.sampling.logit_bias)
        check_stop_tokens(request.ends, self._vocabulary)
        check_scoring(request.prompt_scoring, len(prompt.tokens))
        eos = self._tokenizer.eos_token_ids
        scorer = self._scorer(request, prompt)
        text = TextStream(self._markers, request, prompt.state, prompt.tokens)
        sequence = Sequence(
            id_,
            replace(prompt, tokens=prompt.tokens + said),
            text,
            max_tokens=room - len(said),
            bounded=request.max_tokens == room,
            fills_context=request.max_tokens != room,
            logprobs=request.logprobs,
            in_session=in_session,
            replayed=len(said),
            produced=len(said),
            draw=Draw(
                request.sampling,
                self._vocabulary,
                len(said),
                reports=request.logprobs is not None,
                constraint=constraint,
                scorer=scorer,
            ),
            scorer=scorer,
            constraint=constraint,
            ends=ending_tokens(request.ends, eos),
        )
        if said and (end := self._replay(sequence, text, said)) is not None:
            return end
        with computing():
            sequence.processors = [
                *make_processors(request.sampling),
                *length_processors(request.ends, eos, len(prompt.tokens)),
            ]
            started = self._take_in(sequence)
        assert started is None or isinstance(started, m.Started)
        return started

    def _replay(self, sequence: Sequence, text: TextStream, said: list[int]) -> m.Done | None:
        """Bring the text to where it was. Done: it had come to its end, unheard."""
        ended = said[-1] in sequence.ends
        for token in said[: len(said) - ended]:
            text.add(token)
        if sequence.constraint is not None:
            sequence.constraint.replay(said)
            ended = ended or sequence.constraint.complete
        if not (text.stopped or ended or sequence.max_tokens <= 0):
            return None
        return _done(sequence, text, "stop" if ended else "length")

    def admit_warm(
        self, id_: int, head: list[int], system_prompt: str
    ) -> m.Warmed | m.Failed | None:
        """Have this head prefilled and kept; the answer at once if it is resident already.

        Raises ContextLengthExceeded or KvTooLarge.
        """
        if len(head) >= self.context_length:
            raise ContextLengthExceeded.of(len(head), self.context_length, "system_prompt")
        # The batch reads all but the last token of a prompt before it decodes: one is put behind
        # the head for it, and is never read.
        sequence = Sequence(id_, Prompt([*head, 0], len(head), system_prompt), None)
        if not head:
            self.cache.warmed(0, system_prompt)
            return m.Warmed(id_, 0)
        said = self._take_in(sequence)
        assert not isinstance(said, m.Started)
        return said

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
        said: list[Said] = [*self._start_waiting()]
        prompts, generated = self._next()
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

    def trim_cache(self, nbytes: int) -> None:
        """Forget cached prompts of at least so many bytes, and give the memory back."""
        self.cache.trim(nbytes)
        mx.clear_cache()

    # --- inside ---

    def _next(self) -> tuple[list[Any], list[Any]]:
        readers = [it for it in self._by_uid.values() if it.reading]
        if not readers:
            return self._batch.next()  # type: ignore[no-any-return]
        decoding = len(self._by_uid) > len(readers)
        most = LARGEST_CHUNK
        if any(it.scorer is not None for it in readers):
            most = most_scored(self._vocabulary, len(readers))
        self._batch.prefill_step_size = self._pace.chunk(readers, decoding=decoding, most=most)
        return self._batch.next()  # type: ignore[no-any-return]

    def _room(self, prompt: Prompt, request: m.ChatRequest) -> int:
        """Return how many tokens the answer may have: those asked for, at most what is left."""
        asked = request.max_tokens
        least = 1 if request.prompt is None else 0  # a prompt alone may be scored
        if asked is not None and asked < least:
            raise InvalidRequest(f"max_tokens: {asked} is less than {least}", param="max_tokens")
        used = len(prompt.tokens)
        left = self.context_length - used
        if left < (asked != 0):
            field = "messages" if request.prompt is None else "prompt"
            raise ContextLengthExceeded.of(used, self.context_length, field)
        return left if asked is None else min(asked, left)

    def _check_bias(self, bias: dict[int, float]) -> None:
        for token in bias:
            known = self._vocabulary if token < self._vocabulary else self._logits
            if not 0 <= token < known:
                raise InvalidRequest(
                    f"logit_bias names token {token}; the vocabulary has {known}",
                    param="logit_bias",
                )

    @cached_property
    def _logits(self) -> int:
        """Tokens that the model has logits for: with padding, more than its tokenizer knows."""
        return logit_count(self._model)

    # --- from waiting to reading ---

    def _take_in(self, sequence: Sequence) -> Begun | None:
        limited = sequence.bounded
        if limited and not fits(sequence, [], self._kv, self._kv_bytes):
            # Clients ask for far more than models say: what cannot be kept free for it is counted
            # as it grows.
            sequence.bounded = False
        if not fits(sequence, [], self._kv, self._kv_bytes):
            raise KvTooLarge(
                f"{sequence.foreseen} tokens of KV are foreseen, "
                f"{in_words(self._kv.nbytes(sequence.foreseen))}; "
                f"this model has {in_words(self._kv_bytes or 0)} for it",
                param="max_tokens" if limited else "messages",
            )
        if sequence.scorer is None:  # what another has read tells nothing of this one's tokens
            follow(sequence, self._by_id.values(), any_length=self._cuttable)
        self._by_id[sequence.id] = sequence
        self._waiting.append(sequence)
        if len(self._waiting) > 1:
            return None
        try:
            return next(iter(self._start_waiting()), None)
        except BaseException:
            self._withdraw(sequence)  # nobody will ask for this id again
            raise

    def _start_waiting(self) -> list[Begun]:
        """Start whoever may, in the order they came."""
        if not self._waiting:
            return []
        begun: list[Begun] = []
        rows = list(self._by_uid.values())
        readers = [it for it in rows if it.reading]
        for sequence in list(self._waiting):
            if not has_room(readers):
                break
            resident = partial(self.cache.resident, sequence.prompt.tokens)
            if may_start(sequence, readers, resident):
                if not fits(sequence, rows, self._kv, self._kv_bytes):
                    break  # nor may others overtake it: it would wait for ever
                self._waiting.remove(sequence)
                word = self._start(sequence)
                if sequence.reading:
                    rows.append(sequence)
                    readers.append(sequence)
                if word is not None:
                    begun.append(word)
        return begun

    def _start(self, sequence: Sequence) -> Begun | None:
        """Into the batch. None: a prompt to be warmed, whose only word is its last."""
        self._keep_what_was_read_for(sequence)
        tokens = sequence.prompt.tokens
        kv, cached = self._resident(sequence)
        if kv is not None and sequence.text is None and cached == sequence.prompt.head:
            # To be warmed, and resident already: there is nothing to read.
            self._forget(sequence)
            return self._store_warm(sequence.id, sequence.prompt, tokens[:cached], kv)
        sequence.cuts = (
            [sequence.prompt.head]
            if sequence.text is None
            else cuts(sequence.prompt, cached, every_segment=not self._cuttable)
        )
        ends = [cached, *sequence.cuts, len(tokens)]
        (sequence.uid,) = self._batch.insert_segments(
            [[tokens[begin:end] for begin, end in pairwise(ends)]],
            [max(1, sequence.max_tokens)],  # mlx_lm knows no row that says nothing
            caches=[kv],
            all_tokens=[tokens[:cached]],
            samplers=[sequence.draw],
            logits_processors=[sequence.processors],
            stop_sequences=[stop_sequences(sequence.ends)],
        )
        sequence.cached = sequence.read = cached
        self._by_uid[sequence.uid] = sequence
        if sequence.text is None:
            return None
        return self._started(sequence)

    def _resident(self, sequence: Sequence) -> tuple[list[Any] | None, int]:
        """Return the KV of what need not be read; of a prompt that is scored, all has to be."""
        if sequence.scorer is not None:
            return None, 0
        with mx.stream(self._batch.stream):
            head = least_fetched(sequence.prompt.head)
            return self.cache.fetch(sequence.prompt.tokens, head)

    def _scorer(self, request: m.ChatRequest, prompt: Prompt) -> PromptScorer | None:
        scoring = request.prompt_scoring
        return None if scoring is None else PromptScorer(self._markers, scoring, prompt)

    def _started(self, sequence: Sequence) -> m.Started:
        prompt, asked = sequence.prompt, len(sequence.prompt.tokens) - sequence.replayed
        known = prompt.head > 0 and not sequence.head_is_new
        miss = self.cache.missed(prompt.tokens[: prompt.head]) if sequence.head_is_new else ""
        room = sequence.max_tokens + sequence.replayed
        return m.Started(sequence.id, asked, min(sequence.cached, asked), known, miss, room)

    def _keep_what_was_read_for(self, sequence: Sequence) -> None:
        """What its leader has read for both goes into the cache while the leader goes on."""
        leader = sequence.leader
        sequence.leader = None
        if leader is None or leader.over or leader.kept >= sequence.shared or not self._cuttable:
            return
        leader.kept = leader.read
        self._keep(leader, self._kind(leader))

    # --- what a step brought ---

    def _prefilled(self, response: Any) -> list[Said]:
        sequence = self._by_uid[response.uid]
        done, total = response.progress
        sequence.read = sequence.cached + done
        said: list[Said] = [m.Prefill(sequence.id, sequence.cached + done, sequence.cached + total)]
        cut = response.end_of_segment and sequence.read in sequence.cuts
        if sequence.text is None:
            if cut:
                kv, tokens = self._extract(sequence)
                self._remove(sequence, keep=False)
                said.append(self._store_warm(sequence.id, sequence.prompt, tokens, kv))
            return said
        if sequence.scorer is not None:
            said.append(sequence.scorer.told(sequence.id, is_last=response.end_of_prompt))
        if response.end_of_prompt:
            self.prefilled_tokens += total
            self.cache.used(sequence.prompt.head, sequence.prompt.system)
            if sequence.max_tokens == 0:
                self._remove(sequence, keep=True)
                said.append(_done(sequence, sequence.text, "length"))
        elif cut:
            self._keep_segment(sequence)
        return said

    def _keep_segment(self, sequence: Sequence) -> None:
        """What is read up to here, unless it is hardly more than what was resident."""
        if sequence.read == sequence.prompt.head:
            self._keep(sequence, Kind.HEAD)
        elif sequence.read == sequence.cuts[-1] or sequence.read - sequence.cached >= WORTH_WAITING:
            self._keep(sequence, self._kind(sequence))

    def _row(self, sequence: Sequence, response: Any) -> m.Row:
        sequence.produced += 1
        token = int(response.token)
        text = sequence.text
        assert text is not None
        was_content = text.in_content
        released = Released([], "") if response.finish_reason == "stop" else text.add(token)
        is_content = was_content and text.in_content  # else it may be part of a marker
        logprobs = self._logprobs(sequence, response, is_content=is_content)
        return m.Row(sequence.id, [token], released.text, logprobs, released.spans)

    def _logprobs(
        self, sequence: Sequence, response: Any, *, is_content: bool
    ) -> list[m.TokenLogprobs]:
        if sequence.logprobs is None or response.finish_reason == "stop":
            return []
        with mx.stream(self._batch.stream):
            return [
                read_logprobs(
                    self._markers,
                    response.logprobs,
                    response.token,
                    sequence.logprobs,
                    is_content=is_content,
                )
            ]

    def _end(self, sequence: Sequence, response: Any) -> m.Done | m.Failed | None:
        text, constraint = sequence.text, sequence.constraint
        assert text is not None
        complete = constraint is not None and constraint.complete
        problem = constraint.problem if constraint is not None else ""
        if response.finish_reason is not None:
            self._forget(sequence)
            self._store(response.all_tokens, response.prompt_cache, self._kind(sequence))
        elif text.stopped or complete or problem:
            self._remove(sequence, keep=True)
        else:
            return None
        if problem:
            return m.Failed(sequence.id, ConstraintFailed.code, problem)
        return _done(sequence, text, "stop" if complete else response.finish_reason or "stop")

    def _remove(self, sequence: Sequence, *, keep: bool) -> None:
        if sequence.waiting:
            self._waiting.remove(sequence)
            self._forget(sequence)
            return
        if keep:
            self._keep(sequence, self._kind(sequence))
        self._forget(sequence)
        self._batch.remove([sequence.uid])

    def _withdraw(self, sequence: Sequence) -> None:
        """Forget a sequence that could not be started."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        if sequence.id in self._by_id:
            self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        sequence.over = True
        del self._by_id[sequence.id]
        self._by_uid.pop(sequence.uid, None)

    # --- what is left behind ---

    def _kind(self, sequence: Sequence) -> Kind:
        return Kind.SESSION if sequence.in_session else Kind.STRANGER

    def _keep(self, sequence: Sequence, kind: Kind) -> None:
        kv, tokens = self._extract(sequence)
        self._store(tokens, kv, kind)

    def _store_warm(
        self, id_: int, prompt: Prompt, tokens: list[int], kv: list[Any]
    ) -> m.Warmed | m.Failed:
        self._detach(kv)
        self.cache.keep(tokens, kv, Kind.WARM)
        self.cache.fit(self._batch.prompt_cache_nbytes)
        if self.cache.resident(tokens) < len(tokens):
            limit = f"cache_bytes is {self.cache.facts.capacity}"
            return m.Failed(id_, CacheError.code, f"the prompt's KV does not fit: {limit}")
        self.cache.warmed(len(tokens), prompt.system)
        return m.Warmed(id_, len(tokens))

    def _extract(self, sequence: Sequence) -> tuple[list[Any], list[int]]:
        with mx.stream(self._batch.stream):
            kv, tokens = self._batch.extract_cache([sequence.uid])[sequence.uid]
        return kv, tokens

    def _store(self, tokens: list[int], kv: list[Any], kind: Kind) -> None:
        if tokens:
            self._detach(kv)
            self.cache.keep(tokens, kv, kind)
            self.cache.fit(self._batch.prompt_cache_nbytes)

    def _detach(self, kv: list[Any]) -> None:
        """Evaluate, or the lazy slice would keep the whole batch's KV alive; do not wait."""
        with mx.stream(self._batch.stream):
            mx.async_eval([layer.state for layer in kv])  # type: ignore[no-untyped-call]


def _done(sequence: Sequence, text: TextStream, natural: m.FinishReason) -> m.Done:
    """The last word, where `natural` says why the tokens ended."""
    rest = text.finish(natural)
    finish = text.finish_reason(natural)
    return m.Done(
        sequence.id,
        finish,
        sequence.produced,
        rest.text,
        rest.spans,
        text.stop_string,
        text.reasoning_tokens,
        context_full=finish == "length" and sequence.fills_context,
    )
