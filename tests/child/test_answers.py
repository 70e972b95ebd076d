"""The answers of sessions are beside their prompts once they have ended."""

from __future__ import annotations

from mlx_worker.child.answers import AnswerWatch
from mlx_worker.engine.partings import PartingMemory
from mlx_worker.engine.prompt import Prompt
from mlx_worker.wire.messages import Generate, RequestFailed
from mlx_worker.wire.output import Done, RowOutput, StepOutput
from mlx_worker.wire.request import ChatRequest, Sampling

REQUEST = ChatRequest([{"role": "user", "content": "hi"}], Sampling(seed=1))
LATER = ChatRequest([*REQUEST.messages, *REQUEST.messages], Sampling(seed=1))
PROMPT = [1, 2, 3]


def started(session: str, replay: list[int] | None = None) -> tuple[PartingMemory, AnswerWatch]:
    memory = PartingMemory()
    message = Generate(7, REQUEST, replay or [], session, "first")
    memory.part(session, message.body, REQUEST, Prompt(PROMPT, 0, ""))
    watch = AnswerWatch(memory)
    watch.begin(message)
    return memory, watch


def last_size(memory: PartingMemory) -> int:
    """Return the tokens of the last prompt and its answer, as the next prompt is told."""
    parting = memory.part("s", "second", LATER, Prompt([*PROMPT, 9, 9], 0, ""))
    assert parting is not None
    return parting.last


def step(*tokens: int, id_: int = 7) -> StepOutput:
    return StepOutput([RowOutput(id_, [token], "") for token in tokens])


def test_answer_watch_answer_is_remembered_but_for_its_last_token() -> None:
    memory, watch = started("s")
    watch.observe([step(4), step(99, id_=8)])
    watch.observe([step(5), step(6), Done(7, "stop", 3, "")])
    assert last_size(memory) == len(PROMPT) + 2


def test_answer_watch_replay_is_the_beginning_of_the_answer() -> None:
    memory, watch = started("s", replay=[4, 5])
    watch.observe([step(6), Done(7, "cancelled", 3, "")])
    assert last_size(memory) == len(PROMPT) + 2


def test_answer_watch_answer_that_fails_is_forgotten() -> None:
    memory, watch = started("s")
    watch.observe([step(4), RequestFailed(7, "internal", "so it was")])
    watch.observe([Done(7, "stop", 1, "")])
    assert last_size(memory) == len(PROMPT)


def test_answer_watch_without_a_session_watches_nothing() -> None:
    memory, watch = started("")
    watch.observe([step(4), Done(7, "stop", 1, "")])
    assert memory.nbytes == 0
