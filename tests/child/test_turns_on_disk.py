"""A real child knows the turns that the child before has sampled, however that child ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from mlx_lm.utils import load_tokenizer

from mlx_worker.kv_disk.files.records import Kind
from mlx_worker.wire.messages import Generate, Leave
from mlx_worker.wire.prompt_cache import DiskState
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.child.test_disk_reading import ANSWER, answer_of
from tests.child.test_leaving import LONG, PATIENCE, child_with_disk
from tests.forced_output import force_output
from tests.kv_disk.headers import kinds_on_disk
from tests.rounds import rounds
from tests.synthetic_models import CALL, CALL_PARTS, CALLED, IM_END

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.wire.messages import Started
    from tests.child.test_child import Front

USER: Final[dict[str, Any]] = {"role": "user", "content": LONG}
LOOK: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
CALLED_LOOK: Final = {
    "id": "c1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"at": "the river"}'},
}
RESULT: Final = {"role": "tool", "tool_call_id": "c1", "content": "the river is old"}
NEXT: Final = [USER, {"role": "assistant", "content": None, "tool_calls": [CALLED_LOOK]}, RESULT]


def ask(
    front: Front, id_: int, messages: list[dict[str, Any]], sampling: Sampling, session: str = "s"
) -> tuple[Started, list[int]]:
    request = ChatRequest(
        messages, sampling, ANSWER, template_kwargs={"enable_thinking": False}, tools=[LOOK]
    )
    front.send(msgspec.structs.replace(Generate(id_, request), session=session))
    return answer_of(front)


@pytest.fixture
def forced(caller: Path) -> Sampling:
    """How the model is made to call a tool, without the line breaks of its template."""
    settings = force_output(load_tokenizer(caller), CALL, *CALL_PARTS[:2], CALLED, IM_END)
    bias = {int(token): value for token, value in settings["logit_bias"].items()}
    return Sampling(1, presence_penalty=settings["presence_penalty"], logit_bias=bias)


@pytest.mark.full
def test_a_child_splices_turns_of_the_child_before(
    caller: Path, tmp_path: Path, forced: Sampling
) -> None:
    with child_with_disk(caller, tmp_path / "of a child that goes on") as front:
        ask(front, 1, [USER], forced)
        expected, tokens = ask(front, 2, NEXT, Sampling(1))
    folder = tmp_path / "kv"
    with child_with_disk(caller, folder) as front:
        _, sampled = ask(front, 1, [USER], forced)
        front.send(Leave(PATIENCE))
        assert front.process.wait(PATIENCE) == 0
    for _ in range(rounds(1, 2, 2)):  # the first of two is killed
        with child_with_disk(caller, folder) as front:
            started, again = ask(front, 1, NEXT, Sampling(1))
        assert [splice.token_ids for splice in started.splices] == [sampled[:-1]]
        assert started.cached_tokens == started.disk_tokens == expected.cached_tokens
        assert again == tokens


@pytest.mark.full
def test_a_killed_child_leaves_the_turns_whose_kv_it_had_written(
    caller: Path, tmp_path: Path, forced: Sampling
) -> None:
    folder = tmp_path / "kv"
    longer = [*NEXT[:-1], RESULT | {"content": LONG}]
    with child_with_disk(caller, folder) as front:
        first, sampled = ask(front, 1, [USER], forced, "")
        second, _ = ask(front, 2, longer, Sampling(1), "")
        assert second.prompt_tokens > 512 > first.prompt_tokens
        ask(front, 3, [*longer, USER], Sampling(1), "")  # uses what is written from then on
        while Kind.TURN not in kinds_on_disk(folder):
            front.receive(DiskState)
    with child_with_disk(caller, folder) as front:
        started, _ = ask(front, 1, longer, Sampling(1), "")
        assert [splice.token_ids for splice in started.splices] == [sampled[:-1]]
