"""Turns that come back: read as their own tokens where they mean the same, else as their text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from mlx_lm.utils import load_tokenizer

from mlx_worker.engine.checks.text_bound import TextBound
from mlx_worker.engine.history.history import TurnHistory
from mlx_worker.engine.history.recall import Recall
from mlx_worker.engine.output.markers import Markers
from mlx_worker.engine.output.text_stream import TextStream
from mlx_worker.engine.prompt import Prompt, build_prompt, render
from mlx_worker.engine.sequence import Sequence
from mlx_worker.wire.request import ChatRequest, PromptScoring, Sampling
from tests.agent_templates import FAMILIES
from tests.engine.text_harness import by_bytes
from tests.synthetic_models import CALL, CALLED, IM_END, THINK, THOUGHT

if TYPE_CHECKING:
    from pathlib import Path


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
ASK = {"role": "user", "content": "Hello"}
THEN = {"role": "user", "content": "And then?"}
PLAIN: dict[str, Any] = {"enable_thinking": False}
LOOK = '{"arguments":{"far" : 1.0, "at":"\\u6771\\u4eac"},"name":"look"}'
"""A call in another spelling than any template's, its keys in another order."""


def called(*calls: Any, content: str | None = None) -> dict[str, Any]:
    written = [
        {"id": f"c{i}", "type": "function", "function": {"name": "look", "arguments": arguments}}
        for i, arguments in enumerate(calls)
    ]
    return {"role": "assistant", "content": content, "tool_calls": written}


def said(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@dataclass
class Talk:
    """A model's tokenizer, and a history of what it is said to have sampled."""

    tokenizer: Any
    kwargs: dict[str, Any] = field(default_factory=lambda: PLAIN)
    bound: TextBound | None = None

    def __post_init__(self) -> None:
        self.markers = Markers(self.tokenizer)
        self.history = TurnHistory(self.markers, 1 << 20)

    def prompt(self, *messages: dict[str, Any], **more: Any) -> Prompt:
        recall = Recall(self.history, TOOLS, more.pop("given", None))
        return render(
            self.tokenizer, list(messages), self.kwargs, TOOLS, self.bound, recall=recall, **more
        )

    def plain(self, *messages: dict[str, Any]) -> Prompt:
        """Return the prompt of the text alone."""
        return render(self.tokenizer, list(messages), self.kwargs, TOOLS)

    def answer(self, prompt: Prompt, tokens: list[int], *stop: str, **more: Any) -> str:
        """Remember tokens as the answer to a prompt, and return the answer's content."""
        request = ChatRequest([], Sampling(1), stop=list(stop), tools=TOOLS, **more)
        text = TextStream(self.markers, request, prompt.state, prompt.tokens)
        ends = self.markers.end_tokens
        spans = [span for token in tokens if token not in ends for span in text.add(token)]
        spans += text.finish("stop")
        self.history.remember(Sequence(1, prompt, text, ends=ends, sampled=tokens))
        return "".join(span for span in spans if isinstance(span, str))


@pytest.fixture
def talk(tokenizer: Any) -> Talk:
    return Talk(tokenizer)


def spelled(tokenizer: Any, *parts: str) -> list[int]:
    """Return added tokens as they are, and a token for each byte of other parts."""
    added = {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items()}
    return [
        token
        for part in parts
        for token in ([added[part]] if part in added else by_bytes(tokenizer, part))
    ]


SAME: list[tuple[list[str], dict[str, Any]]] = [
    ([CALL, LOOK, CALLED], called({"at": "東京", "far": 1})),
    ([CALL, LOOK, CALLED], called('{"at": "東京", "far": 1.0}')),
    (
        ["So.\n", CALL, LOOK, CALLED, "\n\n", CALL, LOOK, CALLED, "\n"],
        called({"at": "東京", "far": 1}, {"far": 1, "at": "東京"}, content="So."),
    ),
    (["東京 🙂 of the river"], said("東京 🙂 of the river")),
    (["\n words \n\n"], said("words")),
    (["words"], said("words\n")),
    ([THINK, "\n\n", THOUGHT, "\n\nwords"], said("words")),
    (["a <thin <tool_cal"], said("a <thin <tool_cal")),
]


@pytest.mark.parametrize(("parts", "turn"), SAME)
def test_history_turn_that_means_the_same_is_read_as_its_tokens(
    talk: Talk, parts: list[str], turn: dict[str, Any]
) -> None:
    before = talk.prompt(ASK)
    tokens = spelled(talk.tokenizer, *parts, IM_END)
    talk.answer(before, tokens)
    after = talk.prompt(ASK, turn, THEN)
    assert after.tokens[: len(before.tokens) + len(tokens)] == before.tokens + tokens
    plain = talk.plain(ASK, turn, THEN)
    assert after.tokens != plain.tokens
    rest = after.tokens[len(before.tokens) + len(tokens) :]
    assert plain.tokens[-len(rest) :] == rest
    (splice,) = after.splices
    assert splice.token_ids == tokens[:-1]


def test_history_without_bytes_remembers_no_turn_but_reads_given_ones(talk: Talk) -> None:
    before = talk.prompt(ASK)
    tokens = spelled(talk.tokenizer, "words", IM_END)
    talk.answer(before, tokens)
    spliced = talk.prompt(ASK, said("words"), THEN)
    forgetful = Talk(talk.tokenizer)
    forgetful.history = TurnHistory(forgetful.markers, 0)
    forgetful.answer(before, tokens)
    after = forgetful.prompt(ASK, said("words"), THEN)
    assert (after.tokens, after.splices) == (talk.plain(ASK, said("words"), THEN).tokens, ())
    resumed = forgetful.prompt(ASK, said("words"), THEN, given=list(spliced.splices))
    assert resumed.tokens == spliced.tokens != after.tokens


OTHER: list[tuple[list[str], dict[str, Any], list[str]]] = [
    ([CALL, LOOK, CALLED], called({"at": "東京", "far": True}), [CALL]),
    ([CALL, LOOK, CALLED], called({"at": "東京"}), [CALL]),
    ([CALL, LOOK, CALLED], called({"at": "東京", "far": 1}, {}), [CALL, LOOK, CALLED]),
    (["I look.", CALL, LOOK, CALLED], said("I look."), ["I look."]),
    (["the river"], said("the rivers of old"), ["the river"]),
    (["the river of old"], said("the river is"), ["the river "]),
    (["the river"], said("a river"), []),
    ([THINK, "hm", THOUGHT, "the river"], said("the river"), []),
    (["look: ", CALL, "look!", CALLED], said("look: look!"), ["look:"]),
    (["a", "<|im_start|>", "b"], said("ab"), ["a"]),
]


@pytest.mark.parametrize(("parts", "turn", "kept"), OTHER)
def test_history_other_turn_is_read_as_its_text_from_where_it_differs(
    talk: Talk, parts: list[str], turn: dict[str, Any], kept: list[str]
) -> None:
    before = talk.prompt(ASK)
    talk.answer(before, spelled(talk.tokenizer, *parts, IM_END))
    after = talk.prompt(ASK, turn, THEN)
    expected = spelled(talk.tokenizer, *kept)
    assert after.tokens[: len(before.tokens) + len(expected)] == before.tokens + expected
    assert [splice.token_ids for splice in after.splices] == ([expected] if expected else [])
    if LOOK not in kept:
        assert text_of(talk, after) == text_of(talk, talk.plain(ASK, turn, THEN))


def text_of(talk: Talk, prompt: Prompt) -> str:
    return b"".join(map(talk.markers.bytes_of, prompt.tokens)).decode()


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hallo"}, said("the river"), THEN],
        [{"role": "system", "content": "be"}, ASK, said("the river"), THEN],
        [ASK, THEN],
        [THEN, said("the river")],
        [ASK],
    ],
)
def test_history_turn_behind_another_text_is_not_known(
    talk: Talk, messages: list[dict[str, Any]]
) -> None:
    talk.answer(talk.prompt(ASK), by_bytes(talk.tokenizer, "the river"))
    assert talk.prompt(*messages).splices == ()
    assert talk.prompt(*messages).tokens == talk.plain(*messages).tokens


def test_history_stop_string_inside_a_token_ends_what_is_spliced(talk: Talk) -> None:
    before = talk.prompt(ASK)
    words = [by_bytes(talk.tokenizer, "at "), talk.tokenizer.encode("river"), [5]]
    assert [len(word) for word in words] == [3, 1, 1]
    content = talk.answer(before, [token for word in words[:2] for token in word], "ve")
    assert content == "at ri"
    after = talk.prompt(ASK, said(content), THEN)
    assert [splice.token_ids for splice in after.splices] == [words[0]]
    assert text_of(talk, after) == text_of(talk, talk.plain(ASK, said(content), THEN))


def test_history_stop_string_of_whitespace_is_not_spliced(talk: Talk) -> None:
    tokens = by_bytes(talk.tokenizer, "at the\n\n")
    assert talk.answer(talk.prompt(ASK), tokens, "\n\n") == "at the"
    (splice,) = talk.prompt(ASK, said("at the"), THEN).splices
    assert splice.token_ids == tokens[:-2]


def test_history_stop_token_is_not_spliced(talk: Talk) -> None:
    tokens = spelled(talk.tokenizer, "at the", IM_END)
    talk.answer(talk.prompt(ASK), tokens, IM_END)
    (splice,) = talk.prompt(ASK, said("at the"), THEN).splices
    assert splice.token_ids == tokens[:-1]


def test_history_answer_cut_inside_a_character_is_what_was_said(talk: Talk) -> None:
    tokens = by_bytes(talk.tokenizer, "at 東")[:-1]
    content = talk.answer(talk.prompt(ASK), tokens)
    assert content == "at \ufffd"
    (whole,) = talk.prompt(ASK, said(content), THEN).splices
    assert whole.token_ids == tokens
    (part,) = talk.prompt(ASK, said("at"), THEN).splices
    assert part.token_ids == tokens[:2]


def test_history_reasoning_that_the_template_shows_is_spliced(tmp_path: Path) -> None:
    (family,) = (family for family in FAMILIES if family.name == "qwen3-thinking")
    talk = Talk(load_tokenizer(family.make(tmp_path)), {})
    before = talk.prompt(ASK)
    tokens = spelled(talk.tokenizer, "hm", THOUGHT, "\n", CALL, LOOK, CALLED, IM_END)
    talk.answer(before, tokens)
    turn = called({"at": "東京", "far": 1}) | {"reasoning_content": "hm"}
    result = {"role": "tool", "tool_call_id": "c0", "content": "found"}
    after = talk.prompt(ASK, turn, result)
    assert after.tokens[: len(before.tokens) + len(tokens)] == before.tokens + tokens
    later = [ASK, turn, result, said("words"), THEN]
    assert talk.prompt(*later).tokens == talk.plain(*later).tokens, "the template drops it"


def test_history_continued_answer_is_found_with_its_beginning(talk: Talk) -> None:
    begun = [ASK, said("The moon")]
    before = talk.prompt(*begun, opening="continued")
    tokens = by_bytes(talk.tokenizer, " and the river")
    talk.answer(before, tokens, opening="continued")
    after = talk.prompt(ASK, said("The moon and the river"), THEN)
    assert after.tokens[: len(before.tokens) + len(tokens)] == before.tokens + tokens


def test_history_cut_answer_that_goes_on_keeps_its_tokens(talk: Talk) -> None:
    before = talk.prompt(ASK)
    tokens = by_bytes(talk.tokenizer, "The river ")
    talk.answer(before, tokens)
    after = talk.prompt(ASK, said("The river "), opening="continued")
    assert after.tokens[: len(before.tokens) + len(tokens) - 1] == before.tokens + tokens[:-1]
    assert text_of(talk, after).endswith("The river ")


def test_history_several_turns_and_answers_are_each_found(talk: Talk) -> None:
    messages: list[dict[str, Any]] = [ASK]
    expected: list[list[int]] = []
    for number in range(6):
        prompt = talk.prompt(*messages)
        assert [splice.token_ids for splice in prompt.splices] == expected
        for other in ("no", f"the {number}", f"the {number} rivers"):
            tokens = by_bytes(talk.tokenizer, other)
            talk.answer(prompt, tokens)
        expected.append(by_bytes(talk.tokenizer, f"the {number}"))
        messages += [said(f"the {number}"), THEN]


def test_history_segments_end_where_they_end_without_splices(talk: Talk) -> None:
    system = {"role": "system", "content": "You are an old river. " * 4}
    before = talk.prompt(system, ASK)
    talk.answer(before, spelled(talk.tokenizer, CALL, LOOK, CALLED, IM_END))
    chat = [system, ASK, called({"at": "東京", "far": 1}), THEN]
    after, plain = talk.prompt(*chat), talk.plain(*chat)
    assert after.system_prefix == plain.system_prefix
    longer = len(after.tokens) - len(plain.tokens)
    assert longer != 0
    assert [end - longer for end in after.segment_ends] == list(plain.segment_ends)


def test_history_prompt_that_splices_make_too_long_is_its_text(tokenizer: Any) -> None:
    turn = said("of the river " * 20)
    plain = Talk(tokenizer).plain(ASK, turn, THEN)
    talk = Talk(tokenizer, bound=TextBound(tokenizer, len(plain.tokens) + 10))
    talk.answer(talk.prompt(ASK), by_bytes(tokenizer, "of the river " * 20))
    after = talk.prompt(ASK, turn, THEN)
    assert (after.tokens, after.splices) == (plain.tokens, ())


def test_history_scored_prompt_is_its_text(talk: Talk) -> None:
    talk.answer(talk.prompt(ASK), by_bytes(talk.tokenizer, "the river"))
    chat = [ASK, said("the river"), THEN]
    recall = Recall(talk.history, [])
    for scoring, count in ((None, 1), (PromptScoring(listed=1), 0)):
        request = ChatRequest(
            chat, Sampling(1), prompt_scoring=scoring, template_kwargs=PLAIN, tools=TOOLS
        )
        assert len(build_prompt(talk.tokenizer, request, None, recall).splices) == count


def test_history_cleared_knows_no_turn(talk: Talk) -> None:
    talk.answer(talk.prompt(ASK), by_bytes(talk.tokenizer, "the river"))
    talk.history.clear()
    assert talk.prompt(ASK, said("the river"), THEN).splices == ()


# --- in another process -----------------------------------------------------------------------


def two_turns(talk: Talk) -> tuple[list[dict[str, Any]], Prompt]:
    before = talk.prompt(ASK)
    talk.answer(before, spelled(talk.tokenizer, CALL, LOOK, CALLED, IM_END))
    chat = [ASK, called({"at": "東京", "far": 1}), THEN]
    talk.answer(talk.prompt(*chat), by_bytes(talk.tokenizer, "the river"))
    chat += [said("the river"), ASK]
    return chat, talk.prompt(*chat)


def test_history_next_process_reads_the_same_tokens(talk: Talk) -> None:
    chat, first = two_turns(talk)
    assert len(first.splices) == 2
    later = Talk(talk.tokenizer)
    again = later.prompt(*chat, given=list(first.splices))
    assert (again.tokens, again.splices) == (first.tokens, first.splices)
    # What it was told, it knows for the next turn.
    assert later.prompt(*chat, said("so"), THEN).splices == first.splices


def test_history_next_process_splices_nothing_that_the_first_did_not(talk: Talk) -> None:
    chat, first = two_turns(talk)
    again = talk.prompt(*chat, given=[])
    assert again.tokens == talk.plain(*chat).tokens != first.tokens


def test_history_other_text_in_the_next_process_is_not_spliced(talk: Talk) -> None:
    chat, first = two_turns(talk)
    changed = [{"role": "user", "content": "Hallo"}, *chat[1:]]
    again = Talk(talk.tokenizer).prompt(*changed, given=list(first.splices))
    assert again.tokens == talk.plain(*changed).tokens
