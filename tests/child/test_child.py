"""A real child on a real pipe, with this test in the front's place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from mlx_worker.child.worker import FEW_ROWS
from mlx_worker.errors import ContextLengthExceeded
from mlx_worker.supervisor.process.launch.process import CHILD_COMMAND
from mlx_worker.wire.framing import encode, frames_from_child
from mlx_worker.wire.messages import (
    PROTOCOL,
    CancelGeneration,
    FromChild,
    Generate,
    Hello,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Ping,
    Pong,
    RequestFailed,
    Started,
)
from mlx_worker.wire.output import Done, StepOutput
from mlx_worker.wire.prompt_cache import CacheCleared, CacheState, ClearCache, PromptWarmed, Warm
from mlx_worker.wire.request import ChatRequest, Sampling
from mlx_worker.wire.tokenizing import Detokenize, DetokenizeResult, Tokenize, TokenizeResult
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlx_worker.wire.base import WireMessage

T = TypeVar("T")

DEADLINE = 60.0

ENDLESS = 8000
"""Tokens of an answer that a test ends before the child does: all that the context has room for."""

RESET = 1 << 30
"""An id that no test uses."""


class Front:
    """The other end of a child's pipe."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[str]) -> None:
        self.socket = sock
        self.process = process
        self._frames = frames_from_child()
        self._received: Iterator[FromChild] = self._messages()

    def send(self, *messages: WireMessage) -> None:
        self.socket.sendall(b"".join(encode(message) for message in messages))

    def receive(self, kind: type[T]) -> T:
        """Return the next message of this kind; others before it are passed over."""
        return next(message for message in self._received if isinstance(message, kind))

    def receive_until(self, kind: type[T]) -> list[FromChild]:
        """Return everything up to and with the next message of this kind."""
        received = []
        for message in self._received:
            received.append(message)
            if isinstance(message, kind):
                return received
        raise AssertionError(f"the child closed its pipe before any {kind.__name__}")

    def _messages(self) -> Iterator[FromChild]:
        while data := self.socket.recv(1 << 16):
            yield from self._frames.feed(data)


@contextlib.contextmanager
def child(*, measured: bool = True, command: Sequence[str] = CHILD_COMMAND) -> Iterator[Front]:
    """Start a child. An unmeasured one leaves as it would outside of a run of coverage.

    Coverage saves its data in the thread that calls `os._exit`, while the other thread computes:
    that has ended a child by SIGSEGV.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    with theirs:
        process = subprocess.Popen(
            [*command, "--fd", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,
            text=True,
            env=None if measured else env,
        )
    with ours, process:
        try:
            yield Front(ours, process)
        finally:
            process.kill()


def load(path: Path, **more: int) -> Load:
    rows, context, kv = more.get("rows", 8), more.get("context"), more.get("kv", 1 << 40)
    return Load("tiny", str(path), rows, context, 1 << 30, kv, 0.1)


def generate(id_: int, text: str, max_tokens: int, **more: object) -> Generate:
    messages = [{"role": "user", "content": text}]
    return Generate(id_, ChatRequest(messages, Sampling(1), max_tokens, **more))  # type: ignore[arg-type]


@contextlib.contextmanager
def loaded_child(model: Path, *, measured: bool = True) -> Iterator[Front]:
    with child(measured=measured) as front:
        front.receive(Hello)
        front.send(load(model))
        front.receive(Loaded)
        yield front


@pytest.fixture(scope="module")
def shared(tiny: Path) -> Iterator[Front]:
    with loaded_child(tiny) as front:
        yield front


@pytest.fixture
def loaded(shared: Front) -> Front:
    """A child that others have used: nothing is under way, nothing cached, all received."""
    shared.send(ClearCache(RESET))
    shared.receive(CacheCleared)
    shared.receive(CacheState)
    return shared


@pytest.fixture
def alone(tiny: Path) -> Iterator[Front]:
    """A child of the test's own, which may end."""
    with loaded_child(tiny, measured=False) as front:
        yield front


def test_it_says_hello_then_loads_with_progress(tiny: Path) -> None:
    with child() as front:
        hello = front.receive(Hello)
        assert hello.protocol == PROTOCOL
        assert hello.pid == front.process.pid
        assert "mlx-lm" in hello.versions
        front.send(load(tiny, context=100))
        *progress, loaded = front.receive_until(Loaded)
        assert isinstance(loaded, Loaded)
        assert loaded.context_length == 100
        last = progress[-1]
        assert isinstance(last, LoadProgress)
        assert last.done == last.total == loaded.weight_bytes > 0


def without_a_stated_context(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    for name, member in (
        ("config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        content = json.loads((folder / name).read_text())
        del content[member]
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.full
def test_without_a_stated_context_memory_is_the_limit(tiny: Path, tmp_path: Path) -> None:
    folder = without_a_stated_context(tiny, tmp_path / "model")
    with child() as front:
        front.receive(Hello)
        front.send(load(folder, kv=6000 * 1024))  # a token of this model takes 1 KiB
        loaded = front.receive(Loaded)
        assert loaded.context_length is None
        assert loaded.kv.nbytes(1) == 1024
        front.send(generate(1, "x" * 5000, 2))
        assert front.receive(Started).prompt_tokens > 5000
        assert front.receive(Done).completion_tokens == 2
        front.send(generate(2, "x" * 6000, 2))
        refused = front.receive(RequestFailed)
        assert refused.code == "context_length_exceeded"
        assert "6000" in refused.message


@pytest.mark.full
def test_a_configured_context_is_the_limit_where_none_is_stated(tiny: Path, tmp_path: Path) -> None:
    folder = without_a_stated_context(tiny, tmp_path / "model")
    with child() as front:
        front.receive(Hello)
        front.send(load(folder, context=9000))
        assert front.receive(Loaded).context_length == 9000


def test_it_leaves_at_eof_even_before_it_has_imported_anything() -> None:
    with child() as front:
        front.socket.close()
        assert front.process.wait(DEADLINE) == 0


def test_it_leaves_at_eof_in_the_middle_of_a_generation(alone: Front) -> None:
    alone.send(generate(1, "Hello", ENDLESS))
    alone.receive(StepOutput)
    alone.socket.close()
    assert alone.process.wait(DEADLINE) == 0


@pytest.mark.full
def test_it_leaves_when_the_front_speaks_no_message(alone: Front) -> None:
    alone.socket.sendall(b"\x00\x00\x00\x03abc")
    assert alone.process.wait(DEADLINE) == 65


def test_pings_are_answered_while_it_works_and_tell_of_progress(loaded: Front) -> None:
    loaded.send(generate(1, "Hello", ENDLESS), Ping(1))
    first = loaded.receive(Pong)
    loaded.receive(StepOutput)
    loaded.receive(StepOutput)
    loaded.send(Ping(2))
    received = loaded.receive_until(Pong)
    second = received[-1]
    assert isinstance(second, Pong)
    assert not any(isinstance(message, Done) for message in received)
    assert (first.seq, second.seq) == (1, 2)
    assert second.decode_steps > first.decode_steps
    assert second.active == 1
    assert second.resident_bytes > 10_000_000
    loaded.send(CancelGeneration(1))
    loaded.receive(Done)


def test_started_comes_before_prefill_and_the_last_word_once(loaded: Front) -> None:
    loaded.send(generate(1, " ".join(WORDS) * 8, 3))
    kinds = [type(message).__name__ for message in loaded.receive_until(Done)]
    assert kinds[0] in ("Started", "CacheState")
    assert kinds.index("Started") < kinds.index("PrefillProgress") < kinds.index("StepOutput")
    assert kinds.count("PrefillProgress") > 1


def test_all_sequences_share_one_step(loaded: Front) -> None:
    loaded.send(*(generate(i, f"{WORDS[i]} once", 200) for i in range(8)))
    widest = 0
    finished = 0
    while finished < 8:
        message = loaded.receive(StepOutput | Done)  # type: ignore[arg-type]
        if isinstance(message, StepOutput):
            assert len({row.id for row in message.rows}) == len(message.rows)
            widest = max(widest, len(message.rows))
        else:
            finished += 1
    assert widest == 8


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no such class")
def test_the_thread_that_computes_preempts_none_while_few_rows_run(loaded: Front) -> None:
    def classes() -> dict[str, int]:
        tasks = [task.name for task in Path(f"/proc/{loaded.process.pid}/task").iterdir()]
        return {task: os.sched_getscheduler(int(task)) for task in tasks}

    def run(ids: range, *, until: set[int]) -> dict[str, int]:
        """Run rows until the classes of all threads are these."""
        for id_ in ids:
            loaded.send(generate(id_, f"{WORDS[0]} once", ENDLESS))
        loaded.receive(StepOutput)
        while set((found := classes()).values()) != until:
            loaded.receive(StepOutput)
        for id_ in ids:
            loaded.send(CancelGeneration(id_))
        for _ in ids:
            loaded.receive(Done)
        return found

    few = run(range(1), until={os.SCHED_OTHER, os.SCHED_BATCH})
    assert few[str(loaded.process.pid)] == os.SCHED_OTHER
    run(range(FEW_ROWS + 1), until={os.SCHED_OTHER})
    again = run(range(2), until={os.SCHED_OTHER, os.SCHED_BATCH})
    assert again == few, "no thread that computes was started later"


def test_a_cancelled_generation_says_so_and_says_nothing_more(loaded: Front) -> None:
    loaded.send(generate(1, "Hello", ENDLESS))
    loaded.receive(StepOutput)
    loaded.send(CancelGeneration(1))
    done = loaded.receive(Done)
    assert done.finish == "cancelled"
    loaded.send(generate(2, "Hello", 3))
    after = loaded.receive_until(Done)
    assert all(
        row.id == 2 for message in after if isinstance(message, StepOutput) for row in message.rows
    )


def test_a_generation_cancelled_before_it_was_admitted_is_never_started(loaded: Front) -> None:
    loaded.send(*(generate(i, " ".join(WORDS) * 8, 2) for i in range(5)), CancelGeneration(4))
    last_words: dict[int, str] = {}
    started: set[int] = set()
    while len(last_words) < 5:
        message = loaded.receive(Started | Done)  # type: ignore[arg-type]
        if isinstance(message, Done):
            last_words[message.id] = message.finish
        else:
            started.add(message.id)
    assert last_words[4] == "cancelled"
    assert {last_words[i] for i in range(4)} == {"length"}


def test_a_cancel_for_what_is_over_is_harmless(loaded: Front) -> None:
    loaded.send(generate(1, "Hello", 2))
    loaded.receive(Done)
    loaded.send(CancelGeneration(1), CancelGeneration(77), generate(2, "Hello", 2))
    assert loaded.receive(Done).id == 2


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (generate(1, "x", 4, template_kwargs={"tokenize": False}), "tokenize"),
        (generate(1, "x " * 9000, 4), "8192"),
    ],
)
def test_a_chat_that_cannot_be_is_refused_and_the_next_is_served(
    loaded: Front, refused: Generate, said: str
) -> None:
    loaded.send(refused, generate(2, "Hello", 2))
    failed = loaded.receive(RequestFailed)
    assert failed.id == 1
    assert said in failed.message
    assert loaded.receive(Done).id == 2


def test_warming_clearing_and_the_state_that_follows(loaded: Front) -> None:
    loaded.send(Warm(1, "You are a river."))
    warmed = loaded.receive(PromptWarmed)
    state = loaded.receive(CacheState)
    assert state.tokens == warmed.tokens > 3
    assert (state.warmed, len(state.system_prompt_hash)) == (1, 64)
    loaded.send(ClearCache(2))
    loaded.receive(CacheCleared)
    state = loaded.receive(CacheState)
    assert (state.tokens, state.warmed, state.entries, state.bytes) == (0, 0, 0, 0)


def test_a_prompt_too_long_to_warm_is_refused_as_its_callers_fault(loaded: Front) -> None:
    loaded.send(Warm(1, "x " * 9000))
    failed = loaded.receive(RequestFailed)
    assert failed.code == ContextLengthExceeded.code
    assert "context length is 8192" in failed.message


@pytest.mark.full
def test_a_folder_without_a_model_is_a_permanent_failure(tmp_path: Path) -> None:
    with child() as front:
        front.receive(Hello)
        front.send(load(tmp_path / "nowhere"))
        failed = front.receive(LoadFailed)
        assert failed.permanent
        assert "nowhere" in failed.reason
        assert front.process.wait(DEADLINE) != 0


def test_the_child_needs_its_end_of_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlx_worker.child"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--fd" in done.stderr


def test_tokens_are_told_beside_a_generation_that_runs(loaded: Front) -> None:
    chat = ChatRequest([{"role": "user", "content": "Hello"}], Sampling(1))
    raw = ChatRequest([], Sampling(1), prompt="Hello")
    loaded.send(generate(1, "Hello", ENDLESS), Tokenize(2, chat), Tokenize(3, raw))
    whole, text = loaded.receive(TokenizeResult), loaded.receive(TokenizeResult)
    assert (whole.id, text.id) == (2, 3)
    tokens = json.loads(text.tokens)
    assert whole.count == len(json.loads(whole.tokens)) > text.count == len(tokens) > 0
    loaded.send(Detokenize(4, tokens), Detokenize(5, [1 << 30]))
    assert loaded.receive(DetokenizeResult) == DetokenizeResult(4, b'"Hello"')
    refused = loaded.receive(RequestFailed)
    assert (refused.id, refused.param) == (5, "tokens")
    loaded.send(CancelGeneration(1))
    assert loaded.receive(Done).finish == "cancelled"
