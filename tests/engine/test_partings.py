"""Where a prompt parts from the last one of its session, with the parts of a real template."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.utils import load_tokenizer

from mlx_worker.engine.partings import PROMPTS_OF_A_SESSION, PartingMemory
from mlx_worker.engine.prompt import Prompt, build_prompt
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.call_counter import calls

if TYPE_CHECKING:
    from pathlib import Path

    from mlx_worker.wire.parting import Parting

SYSTEM = {"role": "system", "content": "You are an old river, patient and slow."}
HELLO = {"role": "user", "content": "hello there"}
ANSWER = {"role": "assistant", "content": "good day"}
MORE = {"role": "user", "content": "and more"}
CHAT = [SYSTEM, HELLO, ANSWER, MORE]
THOUGHT = {"role": "assistant", "content": "well", "reasoning_content": "hm"}


def tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


FORGETS = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if loop.last and message.reasoning_content %}{{ message.reasoning_content }}{% endif %}"
    "{{- message.content + '<|im_end|>\n' }}{%- endfor %}"
)


class Conversation:
    """Prompts of sessions of one model, each of a body of its own."""

    def __init__(self, tokenizer: Any, **memory: int) -> None:
        self._tokenizer = tokenizer
        self.memory = PartingMemory(**memory)
        self.last: Prompt
        self._count = 0

    def say(
        self, messages: list[dict[str, Any]], session: str = "s", **fields: Any
    ) -> Parting | None:
        self._count += 1
        request = ChatRequest(messages, Sampling(seed=1), **fields)
        self.last = build_prompt(self._tokenizer, request)
        return self.memory.part(session, self._body, request, self.last)

    def answer(self, tokens: list[int]) -> None:
        """Remember the answer to the last prompt of the session."""
        self.memory.add_answer("s", self._body, tokens)

    @property
    def _body(self) -> str:
        return f"body {self._count}"


@pytest.fixture
def talk(tokenizer: Any) -> Conversation:
    return Conversation(tokenizer)


def replaced(at: int, **changes: Any) -> list[dict[str, Any]]:
    """Return CHAT with one message changed."""
    return [*CHAT[:at], CHAT[at] | changes, *CHAT[at + 1 :]]


def test_part_of_first_prompt_is_unknown(talk: Conversation) -> None:
    assert talk.say(CHAT) is None


def test_part_without_a_session_is_unknown_and_remembers_nothing(talk: Conversation) -> None:
    assert talk.say(CHAT, session="") is None
    assert talk.say(CHAT, session="") is None
    assert talk.memory.nbytes == 0


def test_part_of_another_session_is_unknown(talk: Conversation) -> None:
    talk.say(CHAT)
    assert talk.say(CHAT, session="other") is None


def test_part_in_a_new_process_is_unknown(talk: Conversation, tokenizer: Any) -> None:
    talk.say(CHAT)
    assert Conversation(tokenizer).say(CHAT) is None


def test_part_after_the_cache_is_cleared_is_unknown(talk: Conversation) -> None:
    talk.say(CHAT)
    talk.memory.clear()
    assert talk.say(CHAT) is None
    assert talk.memory.nbytes > 0


@pytest.mark.parametrize("after", [[], [THOUGHT, HELLO], [THOUGHT]])
def test_part_of_a_prompt_that_goes_on_is_none(
    talk: Conversation, after: list[dict[str, Any]]
) -> None:
    talk.say(CHAT)
    last = talk.last
    parting = talk.say([*CHAT, *after])
    assert parting is not None
    assert (parting.part, parting.last, parting.lost) == ("none", len(last.tokens), 0)
    assert last.segment_ends[-1] <= parting.shared <= len(last.tokens)


@pytest.mark.parametrize(
    ("messages", "fields", "place"),
    [
        (replaced(0, content="You are a young river."), {}, "system"),
        (CHAT[1:], {}, "system"),
        (replaced(1, content="hello here"), {}, "turn 1 (user)"),
        (replaced(2, content="good night"), {}, "turn 2 (assistant)"),
        (replaced(3, content="and less"), {}, "turn 3 (user)"),
        ([*CHAT[:2], MORE], {}, "turn 2 (user)"),
        ([*replaced(1, content="hi"), ANSWER, MORE], {}, "turn 1 (user)"),
        (CHAT, {"tools": [tool("look")]}, "tools"),
        (CHAT, {"template_kwargs": {"enable_thinking": True}}, "none"),
        (CHAT, {"prompt": "hello"}, "prompt"),
    ],
)
def test_part_is_what_differs_first(
    talk: Conversation, messages: Any, fields: dict[str, Any], place: str
) -> None:
    talk.say(CHAT)
    before = talk.last.tokens
    parting = talk.say(messages, **fields)
    assert parting is not None
    assert parting.place == place
    assert parting.last == len(before)
    shared = parting.shared
    assert talk.last.tokens[:shared] == before[:shared]
    if place != "none":
        assert talk.last.tokens[shared] != before[shared]
        assert parting.lost == len(before) - shared > 0


def test_part_of_other_tools_is_tools_where_the_system_prompt_is_the_same(
    talk: Conversation,
) -> None:
    talk.say(CHAT, tools=[tool("look"), tool("listen")])
    parting = talk.say([*CHAT, ANSWER, MORE], tools=[tool("look"), tool("read")])
    assert parting is not None
    assert parting.place == "tools"


def test_part_of_an_argument_that_the_template_shows_is_arguments(caller: Path) -> None:
    tokenizer: Any = load_tokenizer(caller)
    tokenizer.chat_template = f"{{{{- mood }}}}{FORGETS}"
    talk = Conversation(tokenizer)
    talk.say(CHAT, template_kwargs={"mood": "merry"})
    parting = talk.say([*CHAT, ANSWER, MORE], template_kwargs={"mood": "grave"})
    assert parting is not None
    assert parting.place == "arguments"


def test_part_words_that_only_open_an_answer_part_nothing(talk: Conversation) -> None:
    asked: dict[str, Any] = {"template_kwargs": {"enable_thinking": True}}
    talk.say(CHAT, **asked)  # ends with the marker of reasoning, which no earlier turn has
    parting = talk.say([*CHAT, ANSWER, MORE], **asked)
    assert parting is not None
    assert parting.part == "none"
    assert parting.shared < parting.last


def test_part_of_what_only_the_template_shows_otherwise_is_template(caller: Path) -> None:
    tokenizer: Any = load_tokenizer(caller)
    tokenizer.chat_template = FORGETS
    talk = Conversation(tokenizer)
    talk.say([*CHAT, THOUGHT])
    parting = talk.say([*CHAT, THOUGHT, MORE])
    assert parting is not None
    assert parting.place == "template"
    assert 0 < parting.lost < 20


def test_part_of_an_answer_that_comes_back_as_it_was_is_none(talk: Conversation) -> None:
    talk.say(CHAT)
    answer = list(range(100, 120))
    talk.answer(answer)
    request = ChatRequest([*CHAT, ANSWER, MORE], Sampling(seed=1))
    tokens = [*talk.last.tokens, *answer, *range(50)]  # as the tokens of an answer are spliced
    parting = talk.memory.part("s", "next", request, replace(talk.last, tokens=tokens))
    assert parting is not None
    assert (parting.part, parting.lost) == ("none", 0)
    assert parting.shared == parting.last == len(talk.last.tokens) + len(answer) - 1


@pytest.mark.parametrize(
    ("after", "place"),
    [
        ([ANSWER | {"content": "good night"}, MORE], "answer 4 (assistant)"),
        ([MORE], "answer 4 (user)"),
        ([], "none"),
    ],
)
def test_part_of_an_answer_that_does_not_come_back_is_the_answer(
    talk: Conversation, after: list[dict[str, Any]], place: str
) -> None:
    talk.say(CHAT)
    talk.answer(list(range(100, 120)))
    parting = talk.say([*CHAT, *after])
    assert parting is not None
    assert parting.place == place
    assert parting.lost == (0 if place == "none" else parting.last - parting.shared)


def test_part_of_an_earlier_turn_goes_before_that_of_the_answer(talk: Conversation) -> None:
    talk.say(CHAT)
    talk.answer(list(range(100, 120)))
    parting = talk.say([*replaced(1, content="hi"), ANSWER, MORE])
    assert parting is not None
    assert parting.place == "turn 1 (user)"


def test_part_answer_of_a_forgotten_prompt_is_not_remembered(talk: Conversation) -> None:
    talk.memory.add_answer("s", "no body", [1, 2, 3])
    assert talk.memory.nbytes == 0


def test_part_of_a_shorter_prompt_that_the_last_one_begins_with_is_none(
    talk: Conversation,
) -> None:
    talk.say(CHAT)
    parting = talk.say(CHAT[:2])
    assert parting is not None
    assert parting.part == "none"
    assert talk.last.segment_ends[-1] <= parting.shared <= len(talk.last.tokens)


def test_part_reasoning_that_no_template_shows_is_not_the_place(talk: Conversation) -> None:
    long = [SYSTEM, HELLO, THOUGHT, MORE, ANSWER, MORE]
    talk.say(long)
    plain = {key: THOUGHT[key] for key in ("role", "content")}
    parting = talk.say([SYSTEM, HELLO, plain, MORE, ANSWER | {"content": "bye"}, MORE])
    assert parting is not None
    assert parting.place == "turn 4 (assistant)"


def test_part_compares_with_the_prompt_of_the_session_that_shares_most(
    talk: Conversation,
) -> None:
    helper = [{"role": "system", "content": "You are a helper."}, HELLO]
    talk.say(CHAT)
    size = len(talk.last.tokens)
    talk.say(helper)
    parting = talk.say([*CHAT, ANSWER, MORE])
    assert parting is not None
    assert (parting.part, parting.last) == ("none", size)
    for number in range(PROMPTS_OF_A_SESSION):
        talk.say([{"role": "system", "content": f"{number} more"}, HELLO])
    forgotten = talk.say([*CHAT, ANSWER, MORE, ANSWER, MORE])
    assert forgotten is not None
    assert forgotten.place == "system"


def test_part_of_the_choices_of_one_body_is_the_same(talk: Conversation, tokenizer: Any) -> None:
    talk.say(CHAT)
    request = ChatRequest(replaced(2, content="good night"), Sampling(seed=1))
    prompt = build_prompt(tokenizer, request)
    partings = [talk.memory.part("s", "one body", request, prompt) for _ in range(3)]
    assert len({parting.place for parting in partings if parting}) == 1
    assert partings[0] == partings[2] is not None


def test_part_memory_forgets_the_sessions_heard_of_longest_ago(tokenizer: Any) -> None:
    talk = Conversation(tokenizer)
    talk.say(CHAT)
    each = talk.memory.nbytes
    talk = Conversation(tokenizer, max_bytes=3 * each)
    for session in "abcad":
        talk.say(CHAT, session)
    assert talk.memory.nbytes == 3 * each
    assert talk.say(CHAT, "b") is None
    talk.memory.clear()
    small = Conversation(tokenizer, max_bytes=each // 2)
    assert [small.say(CHAT), small.say(CHAT)] == [None, None]
    assert small.memory.nbytes == 0


def test_part_of_a_prompt_costs_no_rendering_and_no_tokens(
    talk: Conversation, tokenizer: Any
) -> None:
    talk.say(CHAT)
    request = ChatRequest(replaced(1, content="hi"), Sampling(seed=1))
    prompt = build_prompt(tokenizer, request)
    counted = calls(lambda: talk.memory.part("s", "b", request, prompt))
    assert not counted.keys() & {"chat_text", "apply_chat_template", "encode", "decode"}
