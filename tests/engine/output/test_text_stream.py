"""Tokens to spans: content, reasoning and calls, the same however the tokens are cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper
from mlx_lm.tool_parsers import mistral

from mlx_worker.bench.synthetic.tokenizer import IM_START
from mlx_worker.wire.output import FinishReason, InvalidToolCall, ReasoningText, ToolCall
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.engine.text_harness import (
    CollectedSpans,
    by_bytes,
    collect_spans,
    request,
    stream,
    text_of,
)
from tests.rounds import rounds
from tests.synthetic_models import CALL, CALLED, THINK, THOUGHT

LOOK = '{"name": "look", "arguments": {"at": "東京"}}'
WALK = '\n{"name": "walk", "arguments": {}}\n'


def shapes(said: CollectedSpans) -> list[Any]:
    """Spans without the ids of calls."""
    return [
        (span.name, span.arguments) if isinstance(span, ToolCall) else span for span in said.spans
    ]


def heard(
    tokenizer: Any, text: str, *stop: str, natural: FinishReason = "stop", **more: Any
) -> CollectedSpans:
    return collect_spans(stream(tokenizer, request(*stop, **more)), tokenizer.encode(text), natural)


SAMPLES = {
    "plain": ("Grüße, 東京 🙂\n\n  end ", ["Grüße, 東京 🙂\n\n  end "]),
    "nearly a marker": ("a <thin <tool_cal </think> b", ["a <thin <tool_cal </think> b"]),
    "reasoning": (f"{THINK}Hm, 東.{THOUGHT}So.", [ReasoningText("Hm, 東."), "So."]),
    "content first": (f"a{THINK}b{THOUGHT}c", ["a", ReasoningText("b"), "c"]),
    "space before content": (f"{THINK}b{THOUGHT}\n\n c", [ReasoningText("b"), "\n\n c"]),
    "layout only": (f"{THINK}b{THOUGHT}\n\n", [ReasoningText("b")]),
    "a call": (f"{CALL}{LOOK}{CALLED}", [("look", '{"at": "東京"}')]),
    "calls": (
        f"I look.\n{CALL}{LOOK}{CALLED}\n{CALL}{WALK}{CALLED}\n",
        ["I look.\n", ("look", '{"at": "東京"}'), ("walk", "{}")],
    ),
    "a call out of reasoning": (
        f"{THINK}b{CALL}{WALK}{CALLED}c",
        [ReasoningText("b"), ("walk", "{}"), "c"],
    ),
    "a call nobody ended": (f"{CALL}{LOOK}", [("look", '{"at": "東京"}')]),
    "reasoning nobody ended": (f"{THINK}so</thi", [ReasoningText("so</thi")]),
    "no call": (
        f"{CALL}look!{CALLED} c",
        [
            InvalidToolCall(
                "look!",
                "not a tool call: JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
            ),
            " c",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "spans"), SAMPLES.values(), ids=SAMPLES)
def test_a_text_is_its_spans(tokenizer: Any, text: str, spans: list[Any]) -> None:
    assert shapes(heard(tokenizer, text)) == spans


@pytest.mark.parametrize(("text", "spans"), SAMPLES.values(), ids=SAMPLES)
def test_it_is_the_same_spans_byte_by_byte(tokenizer: Any, text: str, spans: list[Any]) -> None:
    assert shapes(collect_spans(stream(tokenizer), by_bytes(tokenizer, text))) == spans


@pytest.mark.parametrize(("text", "spans"), SAMPLES.values(), ids=SAMPLES)
def test_it_is_the_same_spans_cut_in_two_anywhere(
    tokenizer: Any, text: str, spans: list[Any]
) -> None:
    for at in range(len(text)):
        tokens = [*tokenizer.encode(text[:at]), *tokenizer.encode(text[at:])]
        assert shapes(collect_spans(stream(tokenizer), tokens)) == spans


def test_nothing_that_may_become_a_marker_is_released_before_it_is_certain(tokenizer: Any) -> None:
    answer = stream(tokenizer)
    said = [text_of(answer.add(token)) for token in by_bytes(tokenizer, "a<think!b")]
    assert said == ["a", "", "", "", "", "", "", "<think!", "b"]


def test_a_prompt_that_ends_in_reasoning_begins_the_answer_there(tokenizer: Any) -> None:
    answer = stream(tokenizer, state="reasoning")
    assert collect_spans(answer, tokenizer.encode(f"Hm.{THOUGHT}\n\nSo.")).spans == [
        ReasoningText("Hm."),
        "\n\nSo.",
    ]


# --- special tokens -------------------------------------------------------------------------


def test_a_special_token_is_no_text_and_the_same_letters_are(tokenizer: Any) -> None:
    (special,) = tokenizer.encode(IM_START)
    spelled = by_bytes(tokenizer, IM_START)
    tokens = [*tokenizer.encode("a"), special, *spelled, *tokenizer.encode("b")]
    assert collect_spans(stream(tokenizer), tokens).spans == [f"a{IM_START}b"]
    thought = [*tokenizer.encode(f"{THINK}a"), special, *tokenizer.encode("b")]
    assert collect_spans(stream(tokenizer), thought).spans == [ReasoningText("ab")]


def test_a_special_token_in_a_call_is_its_formats(tokenizer: Any) -> None:
    said = heard(tokenizer, f'{CALL}{{"name": "{IM_START}"}}{CALLED}')
    assert shapes(said) == [(IM_START, "{}")]


# --- stop strings ---------------------------------------------------------------------------


def test_a_stop_string_ends_content_and_is_not_looked_for_elsewhere(tokenizer: Any) -> None:
    text = f'{THINK}a END b{THOUGHT}c{CALL}{{"name": "END"}}{CALLED}d E'
    answer = stream(tokenizer, request("END"))
    said = collect_spans(answer, by_bytes(tokenizer, f"{text}ND e"))
    assert shapes(said) == [ReasoningText("a END b"), "c", ("END", "{}"), "d "]
    assert answer.stopped


@pytest.mark.parametrize(
    ("text", "stop", "said", "which"),
    [
        ("one END two", ("STOP", "END"), "one ", "END"),
        ("one two", ("STOP", "END"), "one two", ""),
        ("a=b", ("=b", "b"), "a", "=b"),
        (f"{THINK}END{THOUGHT}So END", ("END",), "So ", "END"),
    ],
)
def test_the_stop_string_that_ended_an_answer_is_known(
    tokenizer: Any, text: str, stop: tuple[str, ...], said: str, which: str
) -> None:
    answer = stream(tokenizer, request(*stop))
    assert collect_spans(answer, by_bytes(tokenizer, text)).content == said
    assert answer.stop_string == which


def test_tokens_are_counted_as_reasoning_until_its_end(tokenizer: Any) -> None:
    answer = stream(tokenizer, state="reasoning")
    collect_spans(answer, tokenizer.encode(f"a{THOUGHT}b{THINK}c d"))
    before, after = tokenizer.encode(f"a{THOUGHT}"), tokenizer.encode("c d")
    assert answer.reasoning_tokens == len(before) + len(after)


def test_what_is_answered_to_a_raw_prompt_is_text_and_nothing_else(tokenizer: Any) -> None:
    text = f"{THINK}a{THOUGHT}{CALL}{LOOK}{CALLED}"
    answer = stream(tokenizer, request(prompt="Hello"))
    assert collect_spans(answer, tokenizer.encode(text)).spans == [text]
    assert answer.reasoning_tokens == 0
    assert answer.finish_reason("stop") == "stop"


def test_a_stop_string_is_not_made_of_two_stretches_of_content(tokenizer: Any) -> None:
    said = heard(tokenizer, f"E{THINK}a{THOUGHT}ND", "END")
    assert said.spans == ["E", ReasoningText("a"), "ND"]


def test_a_stop_string_that_is_the_beginning_of_a_marker_does_not_hide_the_marker(
    tokenizer: Any,
) -> None:
    said = heard(tokenizer, f"{THINK}a{THOUGHT}b <i>c</i>", "<")
    assert said.spans == [ReasoningText("a"), "b "]


def test_a_blank_line_that_is_layout_does_not_stop_the_answer(tokenizer: Any) -> None:
    said = heard(tokenizer, f"{THINK}a{THOUGHT}\n\nb\n\nc", "\n\n")
    assert said.spans == [ReasoningText("a"), "\n\nb"]


def test_a_stop_string_in_what_the_end_releases_still_stops(tokenizer: Any) -> None:
    answer = stream(tokenizer, request("<th"))
    assert collect_spans(answer, by_bytes(tokenizer, "a <th"), "length").spans == ["a "]
    assert answer.finish_reason("length") == "stop"


# --- stop strings that are tokens ------------------------------------------------------------


def special(tokenizer: Any, *parts: str) -> list[int]:
    """Each part as the one token that it is, else as ordinary tokens."""
    known = {added.content: token for token, added in tokenizer.added_tokens_decoder.items()}
    tokens: list[int] = []
    for part in parts:
        tokens += [known[part]] if part in known else tokenizer.encode(part)
    return tokens


@pytest.mark.parametrize(
    ("stop", "parts", "spans", "stops"),
    [
        (IM_START, ["a", IM_START, "b"], ["a"], True),
        (f"{IM_START}user", ["a", IM_START, "user", "b"], ["a"], True),
        (f"{IM_START}user", ["a", IM_START, "us", "er", "b"], ["a"], True),
        (f"{IM_START}user", ["a", IM_START, "use", "less"], ["a", "useless"], False),
        (f"a{IM_START}", ["xa", IM_START, "b"], ["x"], True),
        (f"{IM_START}{IM_START}", ["a", IM_START, "b", IM_START, IM_START, "c"], ["a", "b"], True),
        (IM_START, [IM_START[:-1], ">", "b"], [], True),
        (IM_START, [IM_START[:-1], "b"], [IM_START[:-1], "b"], False),
        (CALL, ["a", CALL, LOOK, CALLED], ["a"], True),
        (CALLED, ["a", CALL, LOOK, CALLED, "b"], ["a", ("look", '{"at": "東京"}')], True),
        (THOUGHT, [THINK, "a", THOUGHT, "b"], [ReasoningText("a")], True),
        (IM_START, [THINK, "a", IM_START, "b"], [ReasoningText("a")], True),
    ],
)
def test_a_stop_string_stops_as_a_token_and_as_text(
    tokenizer: Any, stop: str, parts: list[str], spans: list[Any], stops: bool
) -> None:
    answer = stream(tokenizer, request("zzz", stop))
    said = collect_spans(answer, special(tokenizer, *parts), "length")
    content = "".join(span for span in spans if isinstance(span, str))
    others = [span for span in spans if not isinstance(span, str)]
    assert said.content == content
    assert [span for span in shapes(said) if not isinstance(span, str)] == others
    assert answer.stopped == stops
    assert answer.stop_string == (stop if stops else "")


def test_a_special_token_that_no_stop_string_names_is_not_shown(tokenizer: Any) -> None:
    answer = stream(tokenizer, request("END"))
    assert collect_spans(answer, special(tokenizer, "a", IM_START, "b")).spans == ["ab"]


# --- the end --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [LOOK, "", '{"na', f"{LOOK}</tool_c"])
def test_a_call_that_the_token_limit_cut_is_text_with_a_warning(tokenizer: Any, text: str) -> None:
    """Also where what there is of it could be read: it is not known to be all of it."""
    said = heard(tokenizer, f"a{CALL}{text}", natural="length")
    assert said.spans == [
        "a",
        InvalidToolCall(text, "the tool call was cut short by the token limit"),
    ]


@pytest.mark.parametrize(
    ("text", "natural", "finish"),
    [
        ("a", "stop", "stop"),
        ("a", "length", "length"),
        (f"{CALL}{LOOK}{CALLED}", "stop", "tool_calls"),
        (f"{CALL}{LOOK}{CALLED}a", "length", "length"),
        (f"{CALL}{LOOK}{CALLED}a END", "length", "tool_calls"),
        (f"{CALL}look!{CALLED}", "stop", "stop"),
    ],
)
def test_the_finish_reason_is_calls_where_the_model_waits_for_them(
    tokenizer: Any, text: str, natural: FinishReason, finish: str
) -> None:
    answer = stream(tokenizer, request("END"))
    collect_spans(answer, tokenizer.encode(text), natural)
    assert answer.finish_reason(natural) == finish


def test_one_call_is_the_end_where_no_more_are_wanted(tokenizer: Any) -> None:
    answer = stream(tokenizer, request(one_call=True))
    text = f"a{CALL}no call{CALLED}{CALL}{WALK}{CALLED}b"
    said = collect_spans(answer, tokenizer.encode(text + CALL + LOOK + CALLED))
    assert [type(span) for span in said.spans] == [str, InvalidToolCall, ToolCall]
    assert answer.finish_reason("length") == "tool_calls"


# --- ids ------------------------------------------------------------------------------------


def ids(said: CollectedSpans) -> list[str]:
    return [span.id for span in said.spans if isinstance(span, ToolCall)]


def test_every_call_has_an_id_of_its_own_and_the_same_request_has_the_same_ones(
    tokenizer: Any,
) -> None:
    text = f"{CALL}{WALK}{CALLED}" * 3
    first, again = (ids(heard(tokenizer, text)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 3
    other = ids(heard(tokenizer, text, seed=2))
    later = collect_spans(
        stream(tokenizer, ChatRequest([{"role": "user"}], Sampling(seed=1))),
        tokenizer.encode(text),
    )
    assert not {*other, *ids(later)} & {*first}
    assert not {*other} & {*ids(later)}


# --- a format whose calls nothing ends ------------------------------------------------------


@pytest.fixture(scope="session")
def endless(tokenizer: Any) -> Any:
    """Mistral's calls go to the end of the answer."""
    return TokenizerWrapper(
        tokenizer._tokenizer,
        BPEStreamingDetokenizer,
        tool_call_start=mistral.tool_call_start,
        tool_call_end=mistral.tool_call_end,
        tool_parser=mistral.parse_tool_call,
    )


@pytest.mark.parametrize("natural", ["stop", "length"])
def test_calls_that_only_the_end_ends_are_read_there(endless: Any, natural: FinishReason) -> None:
    said = heard(
        endless, 'a[TOOL_CALLS]look[ARGS]{"at": 1}[TOOL_CALLS]walk[ARGS]{}', natural=natural
    )
    assert shapes(said) == ["a", ("look", '{"at": 1}'), ("walk", "{}")]


def test_calls_that_only_the_end_ends_are_cut_short_by_it(endless: Any) -> None:
    said = heard(endless, 'a[TOOL_CALLS]look[ARGS]{"at": ', natural="length")
    assert [type(span) for span in said.spans] == [str, InvalidToolCall]


# --- any text, any cut ----------------------------------------------------------------------

FRAGMENTS = st.one_of(
    st.sampled_from(
        [
            THINK,
            THOUGHT,
            CALL,
            CALLED,
            LOOK,
            WALK,
            IM_START[:4],
            "<",
            "<th",
            "</",
            "ll>",
            "tool_call",
        ]
    ),
    st.sampled_from([" ", "\n\n", "a", " river", "東", "🙂", "EN", "END", "stop", "}", '{"name"']),
    # mlx_lm's detokenizer reads the byte 0 as a letter.
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4),
)
TEXTS = st.lists(FRAGMENTS, max_size=12).map("".join)
STOPS = st.sampled_from([(), ("END",), ("stop", "<"), ("\n\n",)])
ENDS = st.sampled_from(["stop", "length"])


def cut_up(tokenizer: Any, text: str, cuts: list[int]) -> list[int]:
    """Tokens of the text, cut at these places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    parts = [text[a:b] for a, b in itertools.pairwise(places)]
    return [token for part in parts for token in tokenizer.encode(part)]


def read_at_once(text: str, stop: tuple[str, ...], natural: str) -> list[Any]:
    """The whole text's spans, by searching it from the front: markers first, then stop strings."""
    spans: list[Any] = []
    for kind, piece, closed in _stretches(text):
        match kind:
            case "reasoning":
                spans += [ReasoningText(piece)] if piece else []
            case "call":
                spans.append(_call(piece, cut=natural == "length" and not closed))
            case _:
                said = piece.lstrip() if kind == "after" else piece
                space = piece[: len(piece) - len(said)] if said else ""
                found = [(said.index(word) + len(word), word) for word in stop if word in said]
                if found:
                    end, word = min(found)
                    return _joined([*spans, space + said[: end - len(word)]])
                spans.append(space + said)
    return _joined(spans)


def _stretches(text: str) -> list[tuple[str, str, bool]]:
    """(kind, text, whether a marker ended it)."""
    ways = {
        "content": {THINK: "reasoning", CALL: "call"},
        "after": {THINK: "reasoning", CALL: "call"},
        "reasoning": {THOUGHT: "after", CALL: "call"},
        "call": {CALLED: "after"},
    }
    kind, found = "content", list[tuple[str, str, bool]]()
    while True:
        first = (
            min((at, word) for word in ways[kind] if (at := text.find(word)) >= 0)
            if any(word in text for word in ways[kind])
            else None
        )
        if first is None:
            return [*found, (kind, text, False)]
        at, word = first
        found.append((kind, text[:at], True))
        kind, text = ways[kind][word], text[at + len(word) :]


def _call(text: str, *, cut: bool) -> Any:
    try:
        read = None if cut else json.loads(text)
    except json.JSONDecodeError:
        return "broken", text
    if isinstance(read, dict) and "name" in read:
        return read["name"], json.dumps(read["arguments"], ensure_ascii=False)
    return "broken", text


def _joined(spans: list[Any]) -> list[Any]:
    joined: list[Any] = []
    for span in spans:
        if joined and isinstance(span, str) and isinstance(joined[-1], str):
            joined[-1] += span
        elif span != "":
            joined.append(span)
    return joined


@settings(derandomize=True, max_examples=rounds(150, 600, 600))
@given(text=TEXTS, cuts=st.lists(st.integers(0, 200), max_size=12), stop=STOPS, natural=ENDS)
def test_any_text_however_cut_is_what_it_is_read_at_once(
    tokenizer: Any, text: str, cuts: list[int], stop: tuple[str, ...], natural: FinishReason
) -> None:
    said = collect_spans(stream(tokenizer, request(*stop)), cut_up(tokenizer, text, cuts), natural)
    spans = [
        ("broken", span.text) if isinstance(span, InvalidToolCall) else span
        for span in shapes(said)
    ]
    # The detokenizer takes the very first space away, as mlx_lm's does.
    assert spans == read_at_once(text.removeprefix(" "), stop, natural)


@settings(derandomize=True, max_examples=rounds(75, 300, 300))
@given(text=TEXTS, cuts=st.lists(st.integers(0, 200), max_size=12), stop=STOPS, natural=ENDS)
def test_a_stream_replayed_to_any_token_goes_on_as_it_would_have(
    tokenizer: Any, text: str, cuts: list[int], stop: tuple[str, ...], natural: FinishReason
) -> None:
    answer = stream(tokenizer, request(*stop))
    tokens, released = cut_up(tokenizer, text, cuts), []
    for token in tokens:
        released.append(answer.add(token))
        if answer.stopped:
            break
    released.append(answer.finish(natural))
    for done in range(len(released)):
        again = stream(tokenizer, request(*stop))
        for token in tokens[:done]:
            again.add(token)
        rest = [again.add(token) for token in tokens[done : len(released) - 1]]
        assert [*rest, again.finish(natural)] == released[done:]
        assert again.finish_reason(natural) == answer.finish_reason(natural)
