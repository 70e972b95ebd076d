"""The engine against mlx_lm itself, on a real tiny model."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import mlx_lm
import pytest

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.prefill import READERS, SMALLEST_CHUNK
from mlx_worker.engine.prompt import render, system_prefix_tokens
from mlx_worker.errors import ContextLengthExceeded, InvalidRequest
from mlx_worker.wire.messages import PrefillProgress, RequestFailed, Started
from mlx_worker.wire.output import Done, StepOutput, TokenLogprobs
from mlx_worker.wire.prompt_cache import PromptWarmed
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.call_counter import calls
from tests.rounds import rounds
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SYSTEM = "You are an old river. " + " ".join(WORDS[:60])


@pytest.fixture(scope="module")
def loaded(tiny: Path) -> tuple[Any, Any]:
    model, tokenizer, _ = read_model(tiny)
    return model, tokenizer


@pytest.fixture
def engine(loaded: tuple[Any, Any]) -> Engine:
    return Engine(*loaded, context_length=8192, max_concurrency=8)


def chat(text: str, *, system: str | None = None, **request: Any) -> ChatRequest:
    sampling = {k: request.pop(k) for k in list(request) if k in Sampling.__struct_fields__}
    messages = [{"role": "system", "content": system}] if system else []
    return ChatRequest(
        messages=[*messages, {"role": "user", "content": text}],
        sampling=Sampling(**{"seed": 7, **sampling}),
        **request,
    )


def offer(engine: Engine, id_: int, request: ChatRequest) -> Started | None:
    word = engine.admit(id_, request, render(engine._tokenizer, request.messages, {}))
    assert not isinstance(word, Done)
    return word


def admit(engine: Engine, id_: int, request: ChatRequest) -> Started:
    started = offer(engine, id_, request)
    assert started is not None
    return started


class Heard:
    """What the engine said, by id."""

    def __init__(self) -> None:
        self.text: dict[int, str] = {}
        self.tokens: dict[int, list[int]] = {}
        self.done: dict[int, Done] = {}
        self.warmed: dict[int, int] = {}
        self.started: dict[int, Started] = {}
        self.steps = 0

    def add(self, said: Iterable[Any]) -> None:
        for message in said:
            match message:
                case StepOutput():
                    self.steps += 1
                    for row in message.rows:
                        self.text[row.id] = self.text.get(row.id, "") + row.text
                        self.tokens.setdefault(row.id, []).extend(row.tokens)
                case Done():
                    self.text[message.id] = self.text.get(message.id, "") + message.text
                    assert message.id not in self.done
                    self.done[message.id] = message
                case Started():
                    self.started[message.id] = message
                case PromptWarmed():
                    self.warmed[message.id] = message.tokens
                case _:
                    pass


def run(engine: Engine, heard: Heard | None = None) -> Heard:
    heard = heard or Heard()
    while engine.active:
        heard.add(engine.step())
    return heard


def reference(loaded: tuple[Any, Any], request: ChatRequest) -> str:
    """What mlx_lm makes of the same chat."""
    model, tokenizer = loaded
    prompt = tokenizer.apply_chat_template(request.messages, add_generation_prompt=True)
    pieces = mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=request.max_tokens or 64)
    return "".join(piece.text for piece in pieces)


def test_greedy_text_alone_is_mlx_lms(engine: Engine, loaded: tuple[Any, Any]) -> None:
    request = chat("Hello", max_tokens=48)
    started = admit(engine, 1, request)
    heard = run(engine)
    assert heard.text[1] == reference(loaded, request)
    assert heard.done[1] == Done(1, "length", 48, heard.done[1].text)
    assert started.cached_tokens == 0
    assert not started.cache_hit


def test_eight_rows_that_join_and_leave_at_different_steps_each_say_what_they_say_alone(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    requests = {i: chat(f"{WORDS[i]} and {WORDS[i + 9]}", max_tokens=8 + 5 * i) for i in range(8)}
    heard = Heard()
    for id_, request in requests.items():
        admit(engine, id_, request)
        heard.add(engine.step())
    run(engine, heard)
    assert heard.text == {i: reference(loaded, request) for i, request in requests.items()}


def test_a_long_prompt_is_read_in_chunks_while_others_decode(loaded: tuple[Any, Any]) -> None:
    # A pause in which no device reads more than the least that is read at all.
    engine = Engine(*loaded, context_length=8192, max_concurrency=8, prefill_pause=1e-6)
    heard = Heard()
    admit(engine, 1, chat("Hello", max_tokens=400))
    while 1 not in heard.tokens:
        heard.add(engine.step())
    before = len(heard.tokens[1])
    started = admit(engine, 2, chat(" ".join(WORDS) * 12, max_tokens=2))
    chunks = 0
    while 2 not in heard.tokens:
        said = engine.step()
        chunks += any(isinstance(message, PrefillProgress) and message.id == 2 for message in said)
        heard.add(said)
    assert chunks >= started.prompt_tokens // (SMALLEST_CHUNK + 1) > 40
    assert len(heard.tokens[1]) - before >= chunks


def test_a_prefix_that_is_resident_changes_no_token(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    first, second = (chat(text, system=SYSTEM, max_tokens=24) for text in ("Hello", "Good day"))
    admit(engine, 1, first)
    run(engine)
    again = admit(engine, 2, second)
    heard = run(engine)
    assert again.cache_hit
    assert 60 < again.cached_tokens < again.prompt_tokens
    assert heard.text[2] == reference(loaded, second)


def test_the_whole_prompt_resident_still_answers(engine: Engine, loaded: tuple[Any, Any]) -> None:
    request = chat("Hello", system=SYSTEM, max_tokens=24)
    admit(engine, 1, request)
    run(engine)
    again = admit(engine, 2, request)
    heard = run(engine)
    assert again.cached_tokens == again.prompt_tokens - 1
    assert heard.text[2] == reference(loaded, request)


def test_a_warmed_prompt_is_hit_by_the_first_request(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    head = system_prefix_tokens(loaded[1], SYSTEM)
    assert engine.admit_warm(1, head, SYSTEM) is None
    warmed = run(engine).warmed
    request = chat("Hello", system=SYSTEM, max_tokens=24)
    started = admit(engine, 2, request)
    assert warmed == {1: len(head)}
    assert started.cache_hit
    assert started.cached_tokens == len(head) == engine.cache.facts.tokens
    assert run(engine).text[2] == reference(loaded, request)


def test_warming_what_is_resident_is_answered_at_once(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    head = system_prefix_tokens(loaded[1], SYSTEM)
    engine.admit_warm(1, head, SYSTEM)
    run(engine)
    assert engine.admit_warm(2, head, SYSTEM) == PromptWarmed(2, len(head))
    assert engine.admit_warm(3, [], "") == PromptWarmed(3, 0)


def test_one_prompt_warmed_twice_at_once_is_read_once(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    head = system_prefix_tokens(loaded[1], SYSTEM)
    for id_ in range(3):
        assert engine.admit_warm(id_, head, SYSTEM) is None
    assert run(engine).warmed == dict.fromkeys(range(3), len(head))
    assert engine.cache.facts.warmed == 1


def test_warming_beside_the_prompts_first_request(engine: Engine, loaded: tuple[Any, Any]) -> None:
    head = system_prefix_tokens(loaded[1], SYSTEM)
    request = chat("Hello", system=SYSTEM, max_tokens=12)
    admit(engine, 1, request)
    engine.admit_warm(2, head, SYSTEM)
    heard = run(engine)
    assert heard.warmed == {2: len(head)}
    assert heard.text[1] == reference(loaded, request)


def test_traffic_does_not_evict_warmed_prompts(engine: Engine, loaded: tuple[Any, Any]) -> None:
    prompts = [f"You are {word}. {SYSTEM}" for word in WORDS[:4]]
    for id_, prompt in enumerate(prompts):
        engine.admit_warm(id_, system_prefix_tokens(loaded[1], prompt), prompt)
        run(engine)
    for id_ in range(10, 90):
        offer(engine, id_, chat(f"{WORDS[id_]} {WORDS[id_ - 10]}", max_tokens=1))
        if engine.active == 8:
            run(engine)
    run(engine)
    for id_, prompt in enumerate(prompts, 100):
        assert admit(engine, id_, chat("Hello", system=prompt, max_tokens=1)).cache_hit


def test_clear_forgets_everything(engine: Engine) -> None:
    request = chat("Hello", system=SYSTEM, max_tokens=4)
    admit(engine, 1, request)
    run(engine)
    engine.clear_cache()
    assert engine.cache.facts.tokens == engine.cache.facts.entries == 0
    assert admit(engine, 2, request).cached_tokens == 0


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_cancel_frees_the_row_at_once_and_keeps_what_was_read(engine: Engine, steps: int) -> None:
    request = chat("Hello", system=SYSTEM, max_tokens=400)
    admit(engine, 1, request)
    for _ in range(steps):
        engine.step()
    done = engine.cancel(1)
    assert done is not None
    assert done.finish == "cancelled"
    assert engine.active == 0
    assert engine.step() == []
    assert engine.cancel(1) is None
    assert (admit(engine, 2, request).cached_tokens > 0) == (steps > 0)


def test_cancelling_a_neighbour_changes_no_token(engine: Engine, loaded: tuple[Any, Any]) -> None:
    kept, left = chat("Hello", max_tokens=40), chat("Good day", max_tokens=40)
    admit(engine, 1, kept)
    admit(engine, 2, left)
    heard = Heard()
    for _ in range(10):
        heard.add(engine.step())
    engine.cancel(2)
    assert run(engine, heard).text[1] == reference(loaded, kept)


def test_a_stop_string_across_tokens_ends_the_answer_and_never_leaks(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    whole = reference(loaded, chat("Hello", max_tokens=48))
    cut = len(whole) // 2
    stop = whole[cut : cut + 9]
    admit(engine, 1, chat("Hello", max_tokens=48, stop=["never said", stop]))
    heard = run(engine)
    assert heard.text[1] == whole[: whole.index(stop)]
    assert heard.done[1].finish == "stop"


def test_what_may_become_a_stop_string_is_released_when_it_does_not(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    request = chat("Hello", max_tokens=48)
    whole = reference(loaded, request)
    admit(engine, 1, chat("Hello", max_tokens=48, stop=[f"{whole[-4:]} and more"]))
    assert run(engine).text[1] == whole


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.8, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 1.3, "top_k": 12},
        {"temperature": 1.0, "repetition_penalty": 1.2, "frequency_penalty": 0.4},
    ],
)
def test_one_seed_gives_one_text_in_any_company(engine: Engine, settings: dict[str, Any]) -> None:
    request = chat("Hello", max_tokens=32, **settings)
    admit(engine, 1, request)
    alone = run(engine).text[1]
    for id_ in range(10, 14):
        admit(engine, id_, chat(WORDS[id_], max_tokens=10 + id_, temperature=1.0, seed=id_))
        engine.step()
    admit(engine, 2, request)
    admit(engine, 3, chat("Hello", max_tokens=32, **{**settings, "seed": 8}))
    heard = run(engine)
    assert heard.text[2] == alone
    assert heard.text[3] != alone


@pytest.mark.parametrize(
    "settings",
    [
        {"top_p": 0.0},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
        {"top_p": 0.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 0.0},
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_sampler_that_is_off_changes_nothing(
    engine: Engine, settings: dict[str, Any], temperature: float
) -> None:
    admit(engine, 1, chat("Hello", max_tokens=24, temperature=temperature))
    admit(engine, 2, chat("Hello", max_tokens=24, temperature=temperature, **settings))
    heard = run(engine)
    assert heard.tokens[2] == heard.tokens[1]


def test_logit_bias_forces_a_token(engine: Engine, loaded: tuple[Any, Any]) -> None:
    (token,) = loaded[1].encode(" river", add_special_tokens=False)
    admit(engine, 1, chat("Hello", max_tokens=3, logit_bias={token: 100.0}))
    assert run(engine).tokens[1] == [token] * 3


def test_a_prompt_over_the_context_is_refused_with_the_numbers(loaded: tuple[Any, Any]) -> None:
    engine = Engine(*loaded, context_length=64, max_concurrency=8)
    with pytest.raises(ContextLengthExceeded, match=r"length is 64 .* resulted in \d+ tokens"):
        admit(engine, 1, chat(" ".join(WORDS), max_tokens=1))
    with pytest.raises(ContextLengthExceeded, match=r"length is 64 .*system prompt resulted"):
        engine.admit_warm(1, system_prefix_tokens(loaded[1], SYSTEM), SYSTEM)
    assert engine.active == 0


def test_no_limit_means_what_the_context_leaves(loaded: tuple[Any, Any]) -> None:
    engine = Engine(*loaded, context_length=64, max_concurrency=8)
    started = admit(engine, 1, chat("Hello"))
    done = run(engine).done[1]
    assert (done.finish, done.context_full) == ("length", True)
    assert done.completion_tokens == 64 - started.prompt_tokens


@pytest.mark.parametrize("asked", [64, 32_000, (1 << 63) - 1])
def test_a_limit_over_the_room_is_cut_to_the_room(loaded: tuple[Any, Any], asked: int) -> None:
    engine = Engine(*loaded, context_length=64, max_concurrency=8)
    started = admit(engine, 1, chat("Hello", max_tokens=asked))
    done = run(engine).done[1]
    assert (done.finish, done.context_full) == ("length", True)
    assert done.completion_tokens == 64 - started.prompt_tokens
    admit(engine, 2, chat("Hello", max_tokens=done.completion_tokens))
    exact = run(engine).done[2]
    assert (exact.finish, exact.context_full) == ("length", False)
    assert exact.completion_tokens == done.completion_tokens


def test_a_cut_answer_is_cut_alike_when_it_is_replayed(loaded: tuple[Any, Any]) -> None:
    request = chat("Hello", max_tokens=32_000, temperature=1.0)
    engine = Engine(*loaded, context_length=64, max_concurrency=8)
    admit(engine, 1, request)
    whole = run(engine)
    said = whole.tokens[1]
    for known in (*range(1, len(said), rounds(9, 1, 1)), len(said)):
        word = replay(engine, request, said[:known])
        if isinstance(word, Done):
            assert known == len(said)
            assert (word.finish, word.context_full) == ("length", True)
        else:
            again = run(engine)
            assert said[:known] + again.tokens[1] == said
            assert again.done[1].completion_tokens == len(said)
            assert again.done[1].context_full


def test_logit_bias_of_a_padding_token_is_taken(tiny: Path, tmp_path: Path) -> None:
    """The model has logits for more tokens than its tokenizer knows, as mlx_lm's models may."""
    folder = shutil.copytree(tiny, tmp_path / "padded")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    *_, last = sorted(vocabulary, key=vocabulary.__getitem__)
    padding = vocabulary.pop(last)
    tokenizer["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    model, tokenizer, _ = read_model(folder)
    assert len(tokenizer) == padding
    engine = Engine(model, tokenizer, context_length=64, max_concurrency=8)
    admit(engine, 1, chat("Hello", max_tokens=3, logit_bias={padding: 100.0}))
    assert run(engine).tokens[1] == [padding] * 3
    admit(engine, 2, chat("Hello", max_tokens=3, logit_bias={padding: -100.0}))
    assert padding not in run(engine).tokens[2]
    with pytest.raises(
        InvalidRequest, match=f"token id {padding + 1}.*vocabulary of {padding + 1}"
    ):
        admit(engine, 3, chat("Hello", max_tokens=3, logit_bias={padding + 1: 1.0}))
    with pytest.raises(InvalidRequest, match="token id -1"):
        admit(engine, 3, chat("Hello", max_tokens=3, logit_bias={-1: 1.0}))


def test_logit_bias_outside_the_vocabulary_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="token id 99999"):
        admit(engine, 1, chat("Hello", max_tokens=3, logit_bias={99999: 1.0}))
    assert engine.active == 0


def test_logprobs_are_mlx_lms(engine: Engine, loaded: tuple[Any, Any]) -> None:
    asked, silent = chat("Hello", max_tokens=20, logprobs=5), chat("Good day", max_tokens=30)
    admit(engine, 1, silent)
    admit(engine, 2, asked)
    told: list[TokenLogprobs] = []
    while engine.active:
        for message in engine.step():
            if isinstance(message, StepOutput):
                assert all(bool(row.logprobs) == (row.id == 2) for row in message.rows)
                told += [entry for row in message.rows for entry in row.logprobs]
    model, tokenizer = loaded
    prompt = tokenizer.apply_chat_template(asked.messages, add_generation_prompt=True)
    reference = list(mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=20))
    assert len(told) == len(reference) == 20
    for entry, response in zip(told, reference, strict=True):
        values: list[float] = response.logprobs.tolist()
        best = sorted(range(len(values)), key=lambda i: -values[i])[:5]
        assert entry.chosen.logprob == pytest.approx(values[response.token], abs=1e-4)
        assert entry.chosen.text == tokenizer.decode([response.token])
        assert [choice.logprob for choice in entry.likeliest] == pytest.approx(
            [values[i] for i in best], abs=1e-4
        )
        assert [choice.text for choice in entry.likeliest] == [tokenizer.decode([i]) for i in best]


def test_what_several_prompts_share_is_read_once(engine: Engine, loaded: tuple[Any, Any]) -> None:
    system = " ".join(WORDS) * 4
    requests = {i: chat(f"{WORDS[i]} once", system=system, max_tokens=12) for i in range(6)}
    alone = len(render(loaded[1], requests[0].messages, {}).tokens)
    heard = Heard()
    for id_, request in requests.items():
        if (started := offer(engine, id_, request)) is not None:
            heard.add([started])
    run(engine, heard)
    assert engine.prefilled_tokens < alone + 6 * 30
    assert [started.cache_hit for _, started in sorted(heard.started.items())] == [False] + [
        True
    ] * 5
    assert heard.text == {i: reference(loaded, request) for i, request in requests.items()}


def test_a_prompt_that_is_being_answered_is_not_read_again(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    request = chat("Hello", system=SYSTEM, max_tokens=40)
    admit(engine, 1, request)
    heard = Heard()
    while 1 not in heard.tokens:
        heard.add(engine.step())
    again = admit(engine, 2, request)
    assert again.cached_tokens == again.prompt_tokens - 1
    run(engine, heard)
    assert heard.text[1] == heard.text[2] == reference(loaded, request)


@pytest.mark.full
def test_who_waits_for_a_leader_that_leaves_reads_for_itself(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    system = " ".join(WORDS) * 12
    admit(engine, 1, chat("Hello", system=system, max_tokens=4))
    request = chat("Good day", system=system, max_tokens=12)
    assert offer(engine, 2, request) is None
    engine.step()
    engine.cancel(1)
    heard = run(engine)
    assert heard.started[2].cached_tokens > 0
    assert heard.text[2] == reference(loaded, request)


@pytest.mark.full
def test_a_short_prompt_overtakes_long_ones(engine: Engine) -> None:
    for i in range(7):
        offer(engine, i, chat(f"{WORDS[i]} " + " ".join(WORDS) * 12, max_tokens=2))
    offer(engine, 9, chat("Hello", max_tokens=2))
    heard = Heard()
    while 9 not in heard.done:
        heard.add(engine.step())
    assert len(heard.done) == 1
    assert sorted(run(engine, heard).done) == [0, 1, 2, 3, 4, 5, 6, 9]


def test_one_who_waits_can_be_cancelled(engine: Engine) -> None:
    system = " ".join(WORDS) * 4
    admit(engine, 1, chat("Hello", system=system, max_tokens=4))
    assert offer(engine, 2, chat("Good day", system=system, max_tokens=4)) is None
    assert engine.cancel(2) == Done(2, "cancelled", 0, "")
    assert sorted(run(engine).done) == [1]


def test_the_cache_keeps_to_its_budget_and_warmed_prompts_go_last(loaded: tuple[Any, Any]) -> None:
    a_token = 2 * 2 * 64 * 4  # k and v; layers; floats of four bytes
    engine = Engine(*loaded, context_length=8192, max_concurrency=8, cache_bytes=400 * a_token)
    head = system_prefix_tokens(loaded[1], SYSTEM)
    engine.admit_warm(0, head, SYSTEM)
    run(engine)
    for id_ in range(1, 12):
        offer(engine, id_, chat(f"{WORDS[id_]} " + " ".join(WORDS[id_ : id_ + 60]), max_tokens=2))
        run(engine)
        facts = engine.cache.facts
        assert facts.nbytes <= facts.capacity == 400 * a_token
    assert engine.cache.facts.entries > 0
    assert admit(engine, 99, chat("Hello", system=SYSTEM, max_tokens=1)).cache_hit


def test_a_prompt_over_the_budget_is_not_said_to_be_warm(loaded: tuple[Any, Any]) -> None:
    engine = Engine(*loaded, context_length=8192, max_concurrency=8, cache_bytes=1000)
    engine.admit_warm(1, system_prefix_tokens(loaded[1], SYSTEM), SYSTEM)
    said = [message for _ in range(5) for message in engine.step()]
    (failed,) = [message for message in said if isinstance(message, RequestFailed)]
    assert "cache_bytes is 1000" in failed.message
    assert engine.active == 0
    assert engine.cache.facts.tokens == 0


def replay(
    engine: Engine, request: ChatRequest, said: list[int], room: int | None = None
) -> Started | Done | None:
    prompt = render(engine._tokenizer, request.messages, {})
    return engine.admit(1, request, prompt, replay=said, room=room)


def test_a_replay_that_had_come_to_its_end_unheard_ends_at_once(
    engine: Engine, loaded: tuple[Any, Any]
) -> None:
    _, tokenizer = loaded
    request = chat("Hello", max_tokens=12)
    admit(engine, 7, request)
    heard = run(engine)
    said, rest = heard.tokens[7], heard.done[7].text
    assert replay(engine, request, said) == Done(1, "length", 12, rest)
    ended = [*said[:5], next(iter(tokenizer.eos_token_ids))]
    unheard = replay(engine, request, ended)
    assert isinstance(unheard, Done)
    assert (unheard.finish, unheard.completion_tokens) == ("stop", 6)
    stop = heard.text[7][-6:-2]
    stopped = chat("Hello", max_tokens=12, stop=[stop])
    assert replay(engine, stopped, said) == Done(1, "stop", 12, "", [], stop)
    assert engine.active == 0


def test_a_replay_counts_what_was_said_before(engine: Engine) -> None:
    request = chat("Hello", max_tokens=12)
    first = admit(engine, 7, request)
    said = run(engine).tokens[7]
    again = replay(engine, request, said[:5])
    assert isinstance(again, Started)
    assert again.prompt_tokens == first.prompt_tokens
    assert again.cached_tokens <= first.prompt_tokens
    heard = run(engine)
    assert heard.tokens[1] == said[5:]
    assert heard.done[1].completion_tokens == 12


@pytest.mark.parametrize("change", [-25, 40])
def test_a_replay_keeps_the_room_that_its_answer_began_with(
    loaded: tuple[Any, Any], change: int
) -> None:
    """The context of a model that states none follows the memory that its process finds."""
    request = chat("Hello")
    context = len(render(loaded[1], request.messages, {}).tokens) + 30
    before = Engine(*loaded, context_length=context, max_concurrency=2)
    started = admit(before, 1, request)
    heard = run(before)
    whole, end = heard.tokens[1], heard.done[1]
    assert (started.room, end.completion_tokens, end.context_full) == (30, 30, True)
    after = Engine(*loaded, context_length=context + change, max_concurrency=2)
    again = replay(after, request, whole[:10], started.room)
    assert isinstance(again, Started)
    assert again.room == started.room
    rest = run(after)
    assert rest.tokens[1] == whole[10:]
    assert (rest.done[1].finish, rest.done[1].context_full) == (end.finish, True)


def test_a_head_is_missed_for_a_reason_that_is_told(engine: Engine) -> None:
    request = chat("Hello", system=SYSTEM, max_tokens=2)
    misses = []
    for clear in (False, False, True):
        if clear:
            engine.clear_cache()
        misses.append(admit(engine, 1, request).miss)
        run(engine)
    assert misses == ["new", "", "cleared"]


def test_who_has_read_all_but_the_last_token_keeps_nobody_from_reading(
    loaded: tuple[Any, Any],
) -> None:
    engine = Engine(*loaded, context_length=8192, max_concurrency=4 * READERS)
    for id_ in range(3 * READERS):
        offer(engine, id_, chat(f"{WORDS[id_]} again", max_tokens=9))
    read: set[int] = set()
    for step in (1, 2, 3):
        read |= {message.id for message in engine.step() if isinstance(message, PrefillProgress)}
        assert read == set(range(step * READERS))


@pytest.mark.parametrize("waiting", [1, 40])
def test_those_who_wait_for_a_row_cost_a_step_nothing(
    loaded: tuple[Any, Any], waiting: int
) -> None:
    engine = Engine(*loaded, context_length=8192, max_concurrency=READERS)
    for id_ in range(READERS + waiting):
        offer(engine, id_, chat(f"{id_} {' '.join(WORDS[:200])}"))
    made = calls(engine.step)
    assert made["step"] == 1
    assert made["may_start"] == 0
    assert made["reading"] <= 4 * READERS
