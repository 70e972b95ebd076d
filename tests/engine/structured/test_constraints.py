"""Rows bound by a grammar: what they say, beside whom, after a crash, and what is refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import pytest
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from mlx_lm.generate import generate_step

from mlx_worker.engine.prompt import build_prompt
from mlx_worker.engine.structured.grammar import answer_grammar
from mlx_worker.engine.structured.lark import LarkWriter
from mlx_worker.errors import ConstraintFailed, InvalidRequest, UnsupportedField
from mlx_worker.wire.request import (
    AnswerConstraint,
    ChatRequest,
    LarkConstraint,
    RegexConstraint,
    Sampling,
    ToolCallConstraint,
)
from tests.rounds import rounds, variants
from tests.structured_harness import EngineHarness, asked, schema
from tests.synthetic_models import CALL, THINK, THOUGHT, make

if TYPE_CHECKING:
    from pathlib import Path

PERSON = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["miller", "queen"]},
    },
    "required": ["age", "name", "kind"],
    "additionalProperties": False,
}
UNSWITCHED = {"enable_thinking": False}
BRIEF = {
    "type": "object",
    "properties": {"age": {"enum": [7, 70]}, "kind": {"type": "string", "maxLength": 3}},
    "required": ["age", "kind"],
    "additionalProperties": False,
}
FREE: list[dict[str, Any]] = [{"seed": seed, "temperature": 0.8 * (seed % 2)} for seed in range(8)]


def tool(name: str, parameters: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


LOOK = tool(
    "look",
    {
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/thing"}},
        "required": ["at"],
        "additionalProperties": False,
        "$defs": {"thing": {"enum": ["the river", "the moon"]}},
    },
)
LISTEN = tool("listen", {"properties": {}, "additionalProperties": False})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> EngineHarness:
    return EngineHarness(make("tiny", tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def talker(caller: Path) -> EngineHarness:
    """It reasons and calls tools."""
    return EngineHarness(caller)


def one(bench: EngineHarness, token: str) -> int:
    (id_,) = bench.tokenizer.encode(token)
    return int(id_)


def no_blanks(bench: EngineHarness) -> dict[int, float]:
    """Greedy, the model would fill every gap with as many of them as it may have."""
    return {one(bench, blank): -100.0 for blank in "\n\t "}


# --- what is said -------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_document_fits_its_schema_and_ends_by_itself(
    tiny: EngineHarness, temperature: float
) -> None:
    (answer,) = tiny.play(asked(schema(PERSON), temperature=temperature))
    assert answer.finish == "stop"
    document = json.loads(answer.text)
    assert list(document) == ["age", "name", "kind"]
    assert 0 <= document["age"] <= 120


@pytest.mark.process
@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        (RegexConstraint(r"a[bc]{3,5}/\d", "f"), r"a[bc]{3,5}/\d"),
        (LarkConstraint('start: "the " THING "!"\nTHING: /moon|river/', "f"), "the (moon|river)!"),
        (LarkConstraint('start: ""', "f"), ""),
    ],
)
def test_a_text_is_one_of_its_language(
    tiny: EngineHarness, constraint: AnswerConstraint, pattern: str
) -> None:
    answers = tiny.play(*(asked(constraint, seed=seed, temperature=1) for seed in range(8)))
    assert {answer.finish for answer in answers} == {"stop"}
    assert all(re.fullmatch(pattern, answer.text) for answer in answers)


def test_the_tokens_are_those_of_mlx_lm_with_the_same_mask_as_a_logits_processor(
    tiny: EngineHarness,
) -> None:
    request = asked(schema(PERSON))
    (answer,) = tiny.play(request)
    ends = list(tiny.tokenizer.eos_token_ids)
    vocabulary = from_tokenizer(tiny.tokenizer._tokenizer, eos_token=ends)
    prompt = build_prompt(tiny.tokenizer, request)
    matcher = LLMatcher(vocabulary, answer_grammar(request, prompt, tiny.tokenizer, LarkWriter({})))

    def masked(tokens: mx.array, logits: mx.array) -> mx.array:
        if tokens.size > len(prompt.tokens):
            assert matcher.consume_token(int(tokens[-1]))
        allowed = mx.array(list(matcher.compute_logit_bias())) > 0
        return mx.where(allowed, logits, -mx.inf)

    theirs = [
        token
        for token, _ in generate_step(
            mx.array(prompt.tokens),
            tiny.model,
            max_tokens=len(answer.tokens),
            logits_processors=[masked],
        )
    ]
    assert answer.tokens == theirs


def test_what_the_token_limit_cuts_is_no_document_and_says_so(tiny: EngineHarness) -> None:
    (answer,) = tiny.play(asked(schema(PERSON), max_tokens=5))
    assert answer.finish == "length"
    assert len(answer.tokens) == 5


@pytest.mark.full
def test_a_document_that_is_complete_at_the_limit_is_not_cut(tiny: EngineHarness) -> None:
    (whole,) = tiny.play(asked(schema(PERSON)))
    (answer,) = tiny.play(asked(schema(PERSON), max_tokens=len(whole.tokens)))
    assert (answer.finish, answer.text) == ("stop", whole.text)


def test_penalties_come_before_the_mask_and_cannot_break_it(tiny: EngineHarness) -> None:
    wanted, other = one(tiny, "x"), one(tiny, "y")
    grammar = RegexConstraint("[xy]{4}", "f")
    free, biased = tiny.play(
        asked(grammar, bias={wanted: -100, other: 100}),
        asked(RegexConstraint("x{4}", "f"), bias={wanted: -100, other: 100}),
    )
    assert free.text == "yyyy"
    assert biased.text == "xxxx"


def test_reported_probabilities_are_the_models_own_before_the_mask(tiny: EngineHarness) -> None:
    first, second = tiny.play(asked(logprobs=5), asked(schema(PERSON), logprobs=5))
    assert second.logprobs[0].likeliest == first.logprobs[0].likeliest
    assert second.logprobs[0].chosen not in first.logprobs[0].likeliest
    assert second.logprobs[0].chosen.logprob < first.logprobs[0].likeliest[-1].logprob
    assert second.logprobs[0].chosen.logprob > -100


FAMILIES = ["window", "statespace", "delta", "recurrent", "unpadded"]


@pytest.mark.full
@pytest.mark.parametrize("family", variants(FAMILIES, ["unpadded"]))
def test_models_of_every_cache_are_bound(family: str, tmp_path: Path) -> None:
    bench = EngineHarness(make(family, tmp_path / family))
    alone = [bench.play(asked(schema(PERSON), seed=seed, temperature=1))[0] for seed in (1, 2)]
    together = bench.play(*(asked(schema(PERSON), seed=s, temperature=1) for s in (1, 2)), asked())
    assert [answer.tokens for answer in together[:2]] == [answer.tokens for answer in alone]
    assert all(json.loads(answer.text)["kind"] in ("miller", "queen") for answer in alone)


# --- beside whom --------------------------------------------------------------------------


@pytest.mark.full
def test_free_rows_say_what_they_say_without_bound_ones(tiny: EngineHarness) -> None:
    free = [asked(max_tokens=80, **fields) for fields in FREE]
    bound = [asked(schema(PERSON), seed=seed, temperature=seed % 2) for seed in range(4)]
    without = tiny.play(*free)
    beside = tiny.play(*bound[:2], *free, *bound[2:])
    assert [answer.tokens for answer in beside[2:10]] == [answer.tokens for answer in without]
    alone = [tiny.play(request)[0] for request in bound]
    assert [answer.tokens for answer in beside[:2] + beside[10:]] == [
        answer.tokens for answer in alone
    ]


# --- after a crash ------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_after_any_token_the_rest_is_what_it_would_have_been(
    tiny: EngineHarness, temperature: float
) -> None:
    request = asked(schema(BRIEF), temperature=temperature, seed=3, bias=no_blanks(tiny))
    (whole,) = tiny.play(request)
    assert whole.finish == "stop"
    for done in range(1, len(whole.tokens) + 1, rounds(4, 1, 1)):
        (rest,) = tiny.play(request, replay=whole.tokens[:done])
        assert (rest.tokens, rest.finish) == (whole.tokens[done:], "stop")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_after_any_token_of_reasoning_and_calls_the_rest_is_what_it_would_have_been(
    talker: EngineHarness, temperature: float
) -> None:
    request = asked(
        ToolCallConstraint(["look"], "tool_choice"),
        temperature=temperature,
        seed=7,
        tools=[LOOK],
        one_call=True,
        template_kwargs={"enable_thinking": True},
        bias={one(talker, THOUGHT): 9.0 if temperature else 50.0, **no_blanks(talker)},
    )
    (whole,) = talker.play(request)
    assert whole.finish == "tool_calls"
    assert bool(whole.reasoning) == (temperature == 1)
    for done in range(1, len(whole.tokens) + 1, rounds(4, 1, 1)):
        (rest,) = talker.play(request, replay=whole.tokens[:done])
        assert (rest.tokens, rest.finish) == (whole.tokens[done:], "tool_calls")
        assert rest.calls == (whole.calls if done < len(whole.tokens) else [])


def test_a_grammar_that_cannot_be_followed_on_ends_its_row_with_an_error(
    tiny: EngineHarness,
) -> None:
    """Said before, and none of the grammar's: as where llguidance meets a limit of its own."""
    (answer,) = tiny.play(asked(RegexConstraint("a{9}", "f")), replay=[one(tiny, "b")])
    assert answer.failed is not None
    assert answer.failed.code == ConstraintFailed.code
    assert "doesn't satisfy the grammar" in answer.failed.message


# --- reasoning ----------------------------------------------------------------------------


def test_a_model_left_in_thought_thinks_freely_and_then_writes_its_document(
    talker: EngineHarness,
) -> None:
    bias = {one(talker, THOUGHT): 9.0}
    answers = talker.play(
        *(
            asked(
                schema(PERSON),
                seed=seed,
                temperature=1,
                template_kwargs={"enable_thinking": True},
                bias=bias,
            )
            for seed in range(6)
        )
    )
    assert {answer.finish for answer in answers} == {"stop"}
    assert all(list(json.loads(answer.text)) == ["age", "name", "kind"] for answer in answers)
    assert sum(bool(answer.reasoning) for answer in answers) > 1


@pytest.mark.process
def test_a_model_may_begin_to_think_by_itself(talker: EngineHarness) -> None:
    bias = {one(talker, THINK): 50.0, one(talker, THOUGHT): 49.0}
    (answer,) = talker.play(
        asked(RegexConstraint("yes|no", "f"), bias=bias, template_kwargs=UNSWITCHED)
    )
    assert answer.text in ("yes", "no")
    assert talker.tokenizer.decode(answer.tokens[:2]) == THINK + THOUGHT


def test_a_raw_prompt_is_answered_with_content_alone(talker: EngineHarness) -> None:
    request = ChatRequest(
        [], Sampling(seed=1), 50, prompt="Hello", constraint=RegexConstraint("<think>a{2}", "f")
    )
    (answer,) = talker.play(request)
    assert (answer.text, answer.finish) == ("<think>aa", "stop")


# --- calls --------------------------------------------------------------------------------


def no_thought(bench: EngineHarness) -> dict[str, Any]:
    """The template does not open a thought, nor is the model to."""
    return {"template_kwargs": UNSWITCHED, "bias": {one(bench, THINK): -100.0}}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_required_call_fits_the_schema_of_its_tool(
    talker: EngineHarness, temperature: float
) -> None:
    answers = talker.play(
        *(
            asked(
                ToolCallConstraint(["look", "listen"], "tool_choice"),
                seed=seed,
                temperature=temperature,
                tools=[LOOK, LISTEN],
                one_call=True,
                **no_thought(talker),
            )
            for seed in range(8)
        )
    )
    assert {answer.finish for answer in answers} == {"tool_calls"}
    assert [len(answer.calls) for answer in answers] == [1] * 8
    assert not any(answer.text for answer in answers)
    for (call,) in (answer.calls for answer in answers):
        arguments = json.loads(call.arguments)
        assert call.name in ("look", "listen")
        assert arguments == {} or arguments["at"] in ("the river", "the moon")


@pytest.mark.full
def test_several_calls_may_follow_each_other(talker: EngineHarness) -> None:
    bound = no_thought(talker)
    bound["bias"][one(talker, CALL)] = 30.0
    (answer,) = talker.play(
        asked(ToolCallConstraint(["listen"], "tool_choice"), tools=[LISTEN], temperature=1, **bound)
    )
    assert len(answer.calls) > 1
    assert {call.name for call in answer.calls} == {"listen"}
    assert len({call.id for call in answer.calls}) == len(answer.calls)


def test_beside_tools_that_are_only_offered_an_answer_is_a_document_or_calls(
    talker: EngineHarness,
) -> None:
    bound = no_thought(talker)
    bound["bias"][one(talker, CALL)] = -100.0
    request = asked(schema(PERSON), tools=[LISTEN], **bound)
    (document,) = talker.play(request)
    assert json.loads(document.text)
    grammar = talker.constraints.compile(request, build_prompt(talker.tokenizer, request))
    assert grammar is not None
    said = '<tool_call>{"name": "listen", "arguments": {}}</tool_call>'
    grammar.replay(talker.tokenizer.encode(said))
    assert not grammar.problem


def test_a_format_of_calls_that_is_no_json_cannot_be_forced(tmp_path: Path) -> None:
    folder = make("caller", tmp_path / "caller")
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tool_parser_type": "pythonic"}))
    with pytest.raises(UnsupportedField) as refused:
        EngineHarness(folder).play(asked(ToolCallConstraint(["look"], "tool_choice"), tools=[LOOK]))
    assert refused.value.param == "tool_choice"


# --- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "place", "fault"),
    [
        ({"type": "objekt"}, "response_format", "objekt"),
        (
            {"properties": {"a": {"items": {"uniqueItems": True}}}},
            "response_format.properties.a.items",
            "uniqueItems",
        ),
        (
            {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "(?=a)"}]},
            "response_format.anyOf[1]",
            "look-around",
        ),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/b"}},
                "$defs": {"b": {"format": "moon", "type": "string"}},
            },
            "response_format.$defs.b",
            "moon",
        ),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "response_format.properties.a", "$defs/b"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "response_format", "minimum"),
    ],
)
def test_a_schema_that_cannot_be_kept_is_refused_with_the_place(
    tiny: EngineHarness, wanted: dict[str, Any], place: str, fault: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tiny.play(asked(schema(wanted)))
    assert refused.value.param == place
    assert refused.value.message.startswith(f"{place}: ")
    assert fault in refused.value.message


@pytest.mark.parametrize(
    ("constraint", "fault"),
    [
        (RegexConstraint("a(b", "structured_outputs.regex"), "unclosed group"),
        (LarkConstraint('start: "a" b\nb: c\n', "structured_outputs.grammar"), "at 2(4)"),
        (LarkConstraint('a: "a"\n', "structured_outputs.grammar"), "no start rule"),
    ],
)
def test_a_grammar_that_is_none_is_refused_with_the_line(
    tiny: EngineHarness, constraint: RegexConstraint | LarkConstraint, fault: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        tiny.play(asked(constraint))
    assert refused.value.param == constraint.field
    assert fault in refused.value.message


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"properties": {"at": {"type": "place"}}}, "the parameters of 'look'.properties.at: "),
        ({"type": "array"}, "the parameters of 'look' are not an object"),
    ],
)
def test_a_tool_whose_calls_cannot_be_forced_is_refused_by_its_name(
    talker: EngineHarness, parameters: dict[str, Any], fault: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        talker.play(
            asked(ToolCallConstraint(["look"], "tool_choice"), tools=[tool("look", parameters)])
        )
    assert refused.value.param == "tools"
    assert fault in refused.value.message


GBNF = 'root ::= "yes" | num\nnum ::= [0-9] [0-9]\n'


def test_a_grammar_in_llama_cpps_notation_is_kept(tiny: EngineHarness) -> None:
    answers = tiny.play(*(asked(LarkConstraint(GBNF, "grammar"), **free) for free in FREE))
    assert {answer.finish for answer in answers} == {"stop"}
    assert all(re.fullmatch("yes|[0-9]{2}", answer.text) for answer in answers)


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ('root ::= "a" (', "grammar: "),
        ('root ::= "a" other', "Rule 'other' not found"),
        ('other ::= "a"', "No 'root' rule found"),
        ("root ::= " + "(" * 3000 + '"a"' + ")" * 3000, "nested too deeply"),
        ("\n".join(f'r{i} ::= "a" r{i + 1}' for i in range(4000)), "4000 rules in"),
    ],
    ids=["syntax", "unknown rule", "no root", "deep", "many rules"],
)
def test_a_grammar_in_llama_cpps_notation_that_is_none_is_refused(
    tiny: EngineHarness, grammar: str, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(said)) as refused:
        tiny.play(asked(LarkConstraint(grammar, "grammar")))
    assert refused.value.param == "grammar"
