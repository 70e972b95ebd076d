"""Garbage of a device, and errors of mlx: no token of them is heard, and nothing else is lost.

An engine that fails is replaced by a fresh one, as the front replaces a child: what was confirmed
is replayed. The answers are compared with undisturbed ones, token for token.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
import pytest

from mlx_worker import inference
from mlx_worker.engine.checks.computation import ComputationFailed, Evidence
from mlx_worker.engine.engine import Engine
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.prompt import build_prompt
from mlx_worker.engine.structured.compiler import ConstraintCompiler
from mlx_worker.errors import ContextLengthExceeded, InferenceError, InvalidRequest
from mlx_worker.wire.messages import RequestFailed, Started
from mlx_worker.wire.output import Done, StepOutput, TokenLogprobs
from mlx_worker.wire.request import ChatRequest, RegexConstraint, Sampling
from tests.faults import failing_model
from tests.faults.failing_model import GARBAGE, SCRIPT, SPOILT, Fault
from tests.rounds import IS_LONG, rounds, variants
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mlx_worker.engine.structured.constraint import Constraint

TOKENS: Final = 60

SAMPLED: Final[dict[str, Any]] = {"temperature": 0.9, "top_p": 0.95}
PENALIZED: Final[dict[str, Any]] = {
    "temperature": 0.7,
    "presence_penalty": 0.5,
    "logit_bias": {70: 2.0},
}
REGEX: Final = RegexConstraint("[a-z ]+", "response_format")


@pytest.fixture(scope="module")
def loaded(nano: Path) -> Iterator[tuple[Any, Any]]:
    sys.modules[failing_model.MODULE] = failing_model
    model, tokenizer, _ = read_model(nano, {"model_type": "failing"})
    yield model, tokenizer
    SCRIPT.set(None)


def chat(
    text: str,
    *,
    constraint: RegexConstraint | None = None,
    logprobs: int | None = None,
    **sampling: Any,
) -> ChatRequest:
    return ChatRequest(
        messages=[{"role": "user", "content": text}],
        sampling=Sampling(**{"seed": 7, **sampling}),
        max_tokens=TOKENS,
        constraint=constraint,
        logprobs=logprobs,
    )


GREEDY: Final = chat("Hello")
EIGHT: Final = [
    chat(WORDS[0]),
    chat(WORDS[1], **SAMPLED),
    chat(WORDS[2], constraint=REGEX),
    chat(WORDS[3], **PENALIZED),
    chat(WORDS[4], logprobs=2),
    chat(WORDS[5], constraint=REGEX, **SAMPLED),
    chat(WORDS[6] + " and " + WORDS[7]),
    chat(WORDS[8], temperature=1.0),
]
ALONE: Final = {
    "greedy": [GREEDY],
    "sampled": [chat("Hello", **SAMPLED)],
    "structured": [chat("Hello", constraint=REGEX)],
}


@dataclass
class Heard:
    """What a client has of one answer."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: str = ""


class Front:
    """In the front's place: it gives every fresh engine what the last one left undone."""

    def __init__(self, loaded: tuple[Any, Any], requests: Iterable[ChatRequest]) -> None:
        self._model, self._tokenizer = loaded
        self._requests = dict(enumerate(requests))
        self._unconfirmed: list[Any] = []
        self.heard = {id_: Heard() for id_ in self._requests}
        self.deaths: list[Exception] = []

    def run(self) -> list[Heard]:
        while not all(heard.finish for heard in self.heard.values()):
            self._unconfirmed = []
            try:
                self._be_a_process()
            except (ComputationFailed, RuntimeError) as error:
                self.deaths.append(error)
        return list(self.heard.values())

    def _be_a_process(self) -> None:
        engine = Engine(
            self._model,
            self._tokenizer,
            context_length=512,
            max_concurrency=8,
            on_encoded=self._take_confirmed,
        )
        for id_, request in self._requests.items():
            if not self.heard[id_].finish:
                said = list(self.heard[id_].tokens)
                prompt = build_prompt(self._tokenizer, request)
                bound = constraint(self._tokenizer, request)
                word = engine.admit(id_, request, prompt, replay=said, constraint=bound)
                self._unconfirmed += [word] if word else []
        while engine.active:
            heard = engine.step()  # in which what was said before is confirmed
            self._unconfirmed += heard
            if not engine._batch.decodes:  # on a CPU the engine itself has no need to ask
                engine._batch.confirm()
                self._take_confirmed()

    def _take_confirmed(self) -> None:
        for message in self._unconfirmed:
            match message:
                case StepOutput():
                    for row in message.rows:
                        heard = self.heard[row.id]
                        heard.tokens += row.tokens
                        heard.text += row.text
                        heard.logprobs += row.logprobs
                case Done():
                    self.heard[message.id].text += message.text
                    self.heard[message.id].finish = message.finish
                case RequestFailed():
                    raise AssertionError(message)
        self._unconfirmed = []


@lru_cache(maxsize=1)
def constraints_of(tokenizer: Any) -> ConstraintCompiler:
    """A process makes them once; here all processes are this one."""
    return ConstraintCompiler(tokenizer)


def constraint(tokenizer: Any, request: ChatRequest) -> Constraint | None:
    return constraints_of(tokenizer).compile(request, build_prompt(tokenizer, request))


def tokens_of(answers: Iterable[Heard]) -> list[tuple[list[int], str, str]]:
    return [(heard.tokens, heard.text, heard.finish) for heard in answers]


def answered(
    loaded: tuple[Any, Any], requests: list[ChatRequest], fault: Fault
) -> tuple[list[Heard], int]:
    """What is heard with a fault, and how many engines have ended of it."""
    SCRIPT.set(fault)
    front = Front(loaded, requests)
    heard = front.run()
    assert SCRIPT.befell <= 1
    return heard, len(front.deaths)


@pytest.fixture(scope="module")
def expected(loaded: tuple[Any, Any]) -> Callable[[list[ChatRequest]], Any]:
    known: dict[int, Any] = {}

    def of(requests: list[ChatRequest]) -> Any:
        if id(requests) not in known:
            SCRIPT.set(None)
            known[id(requests)] = tokens_of(Front(loaded, requests).run())
        return known[id(requests)]

    return of


def kinds_at(token: int) -> list[str]:
    return GARBAGE if IS_LONG else [GARBAGE[token % len(GARBAGE)]]


def test_the_answers_that_are_disturbed_are_as_long_as_they_are_to_be(
    expected: Callable[[list[ChatRequest]], Any],
) -> None:
    for requests in (EIGHT, *ALONE.values()):
        assert [len(tokens) for tokens, _, _ in expected(requests)] == [TOKENS] * len(requests)


@pytest.mark.parametrize("name", variants(ALONE, ["structured"]))
def test_garbage_at_a_token_of_one_stream_is_not_heard(
    loaded: tuple[Any, Any], expected: Callable[[list[ChatRequest]], Any], name: str
) -> None:
    for token in range(0, TOKENS, 1 if IS_LONG else rounds(16, 1, 1)):
        for kind in kinds_at(token):
            heard, deaths = answered(loaded, ALONE[name], Fault(kind=kind, at=token))
            assert tokens_of(heard) == expected(ALONE[name]), (kind, token)
            assert deaths == 1


@pytest.mark.full
@pytest.mark.parametrize("whose", ["one row", "all rows"])
def test_garbage_at_a_token_of_eight_streams_is_not_heard(
    loaded: tuple[Any, Any], expected: Callable[[list[ChatRequest]], Any], whose: str
) -> None:
    for token in range(TOKENS):
        for kind in kinds_at(token):
            row = token % 8 if whose == "one row" else None
            heard, deaths = answered(loaded, EIGHT, Fault(kind=kind, at=token, row=row))
            assert tokens_of(heard) == expected(EIGHT), (kind, token)
            assert deaths == 1


@pytest.mark.parametrize("late", variants([0, 1, 2], [1]))
@pytest.mark.parametrize(
    "requests",
    [pytest.param(GREEDY, id="one"), pytest.param(EIGHT, id="eight", marks=pytest.mark.full)],
)
def test_an_error_at_a_step_or_behind_it_leaves_nothing_wrong_said(
    loaded: tuple[Any, Any],
    expected: Callable[[list[ChatRequest]], Any],
    requests: ChatRequest | list[ChatRequest],
    late: int,
) -> None:
    asked = EIGHT if requests is EIGHT else ALONE["greedy"]
    step = rounds(20, 5, 5) if requests is EIGHT else rounds(16, 1, 1)
    for token in range(0, TOKENS - late, 1 if IS_LONG else step):
        heard, deaths = answered(loaded, asked, Fault(at=token, late=late))
        assert tokens_of(heard) == expected(asked), token
        assert deaths == 1


@pytest.mark.skipif(mx.default_device().type == mx.DeviceType.gpu, reason="no inverse on a GPU")
def test_an_error_of_mlxs_own_thread_is_raised_before_its_token_is_heard(
    loaded: tuple[Any, Any], expected: Callable[[list[ChatRequest]], Any]
) -> None:
    for token in range(0, TOKENS, rounds(32, 16, 16)):
        heard, deaths = answered(loaded, EIGHT, Fault(kind="parked", at=token))
        assert tokens_of(heard) == expected(EIGHT), token
        assert deaths == 1


MOST_LATE_ERRORS: Final = 5
"""Errors of mlx's thread in one process: mlx counts what has raised as running for ever, and with
more than ten such tasks it may wait for one to end. A child ends after the first."""

LATE: Final = range(0, TOKENS, 1 if IS_LONG else rounds(16, 4, 4))
SOME_LATE: Final = """
import sys
from mlx_worker.engine.loading import read_model
from tests.faults import test_garbage as garbage
sys.modules[garbage.failing_model.MODULE] = garbage.failing_model
folder, *tokens = sys.argv[1:]
loaded = read_model(garbage.Path(folder), {"model_type": "failing"})[:2]
garbage.SCRIPT.set(None)
expected = garbage.tokens_of(garbage.Front(loaded, garbage.EIGHT).run())
for token in map(int, tokens):
    heard, deaths = garbage.answered(loaded, garbage.EIGHT, garbage.Fault(kind="parked", at=token))
    assert (garbage.tokens_of(heard), deaths) == (expected, 1), token
"""


@pytest.mark.full
@pytest.mark.skipif(mx.default_device().type == mx.DeviceType.gpu, reason="no inverse on a GPU")
@pytest.mark.parametrize("first", range(0, len(LATE), MOST_LATE_ERRORS))
def test_errors_of_mlxs_own_thread_at_many_tokens(nano: Path, first: int) -> None:
    tokens = map(str, LATE[first : first + MOST_LATE_ERRORS])
    command = [sys.executable, "-c", SOME_LATE, str(nano), *tokens]
    ran = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("where", ["prefill", "merge", "extract"])
def test_an_error_on_the_way_to_a_step_is_fatal_and_costs_nothing(
    loaded: tuple[Any, Any], expected: Callable[[list[ChatRequest]], Any], where: str
) -> None:
    heard, deaths = answered(loaded, EIGHT, Fault(where=where))
    assert tokens_of(heard) == expected(EIGHT)
    assert deaths == 1


# --- which errors are fatal ---


@pytest.fixture
def engine(loaded: tuple[Any, Any]) -> Engine:
    SCRIPT.set(None)
    return Engine(*loaded, context_length=512, max_concurrency=8)


def admit(engine: Engine, request: ChatRequest) -> Started | Done | None:
    return engine.admit(1, request, build_prompt(engine._tokenizer, request))


def finish(engine: Engine) -> None:
    while engine.active:
        engine.step()


@pytest.mark.parametrize(("where", "words"), [("copy", 30), ("trim", 20)])
def test_an_error_of_mlx_while_a_request_is_taken_in_is_fatal(
    engine: Engine, where: str, words: int
) -> None:
    admit(engine, chat(" ".join(WORDS[:30])))
    finish(engine)
    SCRIPT.set(Fault(where=where))
    with pytest.raises(ComputationFailed, match="Command buffer"):
        admit(engine, chat(" ".join(WORDS[:words])))


@pytest.mark.parametrize("where", ["prefill", "extract", "merge", "step"])
def test_an_error_of_mlx_in_a_step_is_no_requests_own(engine: Engine, where: str) -> None:
    SCRIPT.set(Fault(where=where))
    admit(engine, GREEDY)
    with pytest.raises(RuntimeError, match="Command buffer"):
        finish(engine)


def test_an_error_of_mlx_in_log_probabilities_is_no_requests_own(engine: Engine) -> None:
    SCRIPT.set(None)
    admit(engine, chat("Hello", logprobs=100_000))
    with pytest.raises(ValueError, match="argpartition"):
        finish(engine)


def test_a_warm_up_that_fails_in_mlx_is_fatal(engine: Engine) -> None:
    SCRIPT.set(Fault(where="prefill"))
    engine.admit_warm(1, list(range(10, 60)), "system")
    with pytest.raises(RuntimeError, match="Command buffer"):
        finish(engine)


def test_a_requests_own_faults_stay_its_own(engine: Engine) -> None:
    with pytest.raises(ContextLengthExceeded):
        admit(engine, chat("Hello " * 600))
    with pytest.raises(InvalidRequest):
        admit(engine, chat("Hello", logit_bias={100_000: 1.0}))
    admit(engine, GREEDY)
    finish(engine)


def test_a_program_goes_on_without_what_was_computed_before_the_garbage(
    loaded: tuple[Any, Any], nano: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(nano, tmp_path / "nano")
    SCRIPT.set(None)
    inference.load_model(folder, {"model_type": "failing"})

    def said() -> str:
        messages = [{"role": "user", "content": "Hello"}]
        return "".join(inference.generate_stream(messages, path=folder, max_tokens=TOKENS))

    expected = said()
    assert inference.runtime(folder).engine.cache.facts.entries == 1
    SCRIPT.set(Fault(kind="nan", at=5))
    with pytest.raises(InferenceError, match="garbage logits"):
        said()
    assert inference.runtime(folder).engine.cache.facts.entries == 0
    assert said() == expected


# --- what garbage is ---

GOOD: Final = {
    "ordinary": [0.5, -2.0, 3.0, 0.0, 1.0, 2.0, 0.0, -1.0],
    "all but one equal": [0.0] * 7 + [9.0],
    "nearly flat": [0.0, 1.0] * 4,
    "ruled out": [-mx.inf] * 7 + [1.0],
    "half ruled out, the rest equal": [-mx.inf, 1.0] * 4,
    "large": [3e4, 1e4, 2e4, 1e4, 2e4, 1e4, 1e4, 0.0],
}


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize("width", [8, 1024, 50_257])
def test_garbage_is_told_from_what_models_say_in_every_precision(
    dtype: mx.Dtype, width: int
) -> None:
    for name, row in GOOD.items():
        logits = mx.array((row * (width // 8 + 1))[:width], dtype=dtype)[None]
        evidence_of(logits).check([5])
        assert name
    for value in (0.0, 3.7, -12.0, 100.0):
        logits = mx.full((1, width), value, dtype=dtype)
        with pytest.raises(ComputationFailed, match="garbage logits"):
            evidence_of(logits).check([5])
    for kind in GARBAGE:
        with pytest.raises(ComputationFailed, match="garbage logits"):
            evidence_of(SPOILT[kind](mx.random.normal((1, width)).astype(dtype))).check([5])


def test_garbage_in_a_row_that_has_left_ends_nothing() -> None:
    evidence_of(mx.zeros((1, 64))).check([6])


def evidence_of(logits: mx.array) -> Evidence:
    normalizers = mx.logsumexp(logits, axis=-1, keepdims=True)
    evidence = Evidence([5], logits - normalizers, normalizers)
    mx.eval(evidence.least)
    return evidence
