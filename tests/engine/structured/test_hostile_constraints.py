"""Shapes that mean harm: what is refused by name before the answer begins, and what is kept."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from mlx_worker.engine.structured.compile_trials import Trials
from mlx_worker.engine.structured.endless_schema import is_endless, without_endless_parts
from mlx_worker.engine.structured.schema_bounds import LOWEST, within_reach
from mlx_worker.errors import ConstraintFailed, ConstraintTooCostly, InvalidRequest, Unavailable
from mlx_worker.grammar_trial.trial import PLAIN_ITEMS, Trial, Verdict
from mlx_worker.limits import ALTERNATIVES, CHOICES, CONSTRAINT_BYTES, PATTERNS
from mlx_worker.wire.request import (
    AnswerConstraint,
    ChatRequest,
    LarkConstraint,
    RegexConstraint,
    ToolCallConstraint,
)
from tests.structured_harness import EngineHarness, asked, schema
from tests.synthetic_models import make

if TYPE_CHECKING:
    from pathlib import Path

ENDLESS_WORK = "start: A\nA: " + " & ".join(f"/.*a{place}.*/" for place in range(40))
"""An intersection that llguidance does not give up on for minutes, whatever fuel it has."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> EngineHarness:
    return EngineHarness(make("tiny", tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def talker(caller: Path) -> EngineHarness:
    return EngineHarness(caller)


def refused(bench: EngineHarness, request: ChatRequest) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        bench.play(request)
    return error.value


# --- what nothing fits --------------------------------------------------------------------

RING = {"$defs": {"n": {"$ref": "#/$defs/n"}}}


@pytest.mark.process
@pytest.mark.parametrize(
    "shape",
    [
        schema({"$ref": "#"}),
        schema(RING | {"$ref": "#/$defs/n"}),
        schema({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
               | {"$ref": "#/$defs/a"}),
        schema({"$defs": {"n": {"anyOf": [{"$ref": "#/$defs/n"}]}}, "$ref": "#/$defs/n"}),
        schema({"$defs": {"n": {"allOf": [{"$ref": "#/$defs/n"}]}}, "$ref": "#/$defs/n"}),
        schema(RING | {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}},
                       "required": ["a"]}),
        schema({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        schema({"type": "array", "items": {"$ref": "#"}, "minItems": 1}),
        RegexConstraint(r"[^\s\S]", "f"),
        RegexConstraint(r"[\d&&\D]", "f"),
        RegexConstraint("[a&&b]", "f"),
        LarkConstraint("start: start", "f"),
        LarkConstraint("start: a\na: a", "f"),
        LarkConstraint("start: a\na: b\nb: a", "f"),
        LarkConstraint('start: "a" b\nb: b', "f"),
        LarkConstraint('start: "a" start', "f"),
        LarkConstraint('start: "a" b | "c"\nb: "x" b', "f"),
        LarkConstraint('start: "a" X\nX: /[^\\s\\S]/', "f"),
        LarkConstraint('start: "a" X start?\nX: /b/ & /c/', "f"),
        LarkConstraint(r'start: "a" /[^\s\S]/', "f"),
        LarkConstraint('start: "a" x\nx: %json {"$defs": {"n": {"$ref": "#/$defs/n"}}, '
               '"$ref": "#/$defs/n"}', "f"),
    ],
)  # fmt: skip
def test_shape_that_no_text_fits_is_refused_in_words(
    tiny: EngineHarness, shape: AnswerConstraint
) -> None:
    error = refused(tiny, asked(shape))
    assert isinstance(error, ConstraintFailed)
    assert error.param == shape.field
    assert "NoExtensionBias" not in error.message
    assert "no text fits" in error.message or "endless" in error.message


@pytest.mark.process
def test_shape_that_no_text_fits_is_refused_though_the_model_may_think_first(
    talker: EngineHarness,
) -> None:
    for thinks in (True, False):
        request = asked(
            RegexConstraint(r"[^\s\S]", "f"), template_kwargs={"enable_thinking": thinks}
        )
        assert isinstance(refused(talker, request), ConstraintFailed)


def test_tool_whose_arguments_nothing_fits_is_refused_by_name(talker: EngineHarness) -> None:
    parameters = RING | {"properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "get", "parameters": parameters}}
    error = refused(talker, asked(ToolCallConstraint(["get"], "tool_choice"), tools=[tool]))
    assert isinstance(error, ConstraintFailed)
    assert "'get'" in error.message


@pytest.mark.parametrize(
    "text", ['{"grammars": [1, 2]}', '{"grammars": []}', "start: /a/ \ud800", "\x00", "start: @x"]
)
def test_grammar_that_is_none_is_the_callers_fault(tiny: EngineHarness, text: str) -> None:
    assert refused(tiny, asked(LarkConstraint(text, "f"))).param == "f"


@pytest.mark.parametrize(
    ("wanted", "endless"),
    [
        ({"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]}, True),
        ({"type": "object", "properties": {"n": {"$ref": "#"}}}, False),
        ({"type": ["object", "null"], "properties": {"n": {"$ref": "#"}}, "required": ["n"]},
         False),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, True),
        ({"type": "array", "items": {"$ref": "#"}}, False),
        ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, False),
        ({"anyOf": [{"$ref": "#"}, {"type": "array", "prefixItems": [{"$ref": "#"}],
                                    "minItems": 1}]}, True),
        ({"$defs": {"a/b~c d": {"type": "null"}}, "$ref": "#/$defs/a~1b~0c%20d"}, False),
        ({"$ref": "https://example.com/a.json"}, False),
        ({"type": "object", "properties": {"$ref": {"type": "string"}}, "required": ["$ref"]},
         False),
        ({"type": ["object"], "properties": {"n": {"$ref": "#"}}, "required": ["n"]}, True),
        ({"type": ["object", "array"], "required": ["n"], "additionalProperties": {"$ref": "#"},
          "items": {"$ref": "#"}, "minItems": 1}, True),
        ({"type": "object", "required": ["n"], "additionalProperties": {"$ref": "#"}}, True),
        ({"type": "object", "required": ["n"], "patternProperties": {"^n$": {"$ref": "#"}},
          "additionalProperties": False}, True),
        ({"type": "object", "required": ["n"], "patternProperties": {"^n$": {"$ref": "#"}}},
         False),
        ({"type": "object", "minProperties": 1, "additionalProperties": {"$ref": "#"}}, True),
        ({"type": "object", "minProperties": 2, "additionalProperties": False,
          "properties": {"a": {"$ref": "#"}, "b": {}}}, True),
        ({"type": "object", "minProperties": 1, "additionalProperties": False,
          "properties": {"a": {"$ref": "#"}, "b": {}}}, False),
        ({"type": "array", "prefixItems": [{}], "items": {"$ref": "#"}, "minItems": 2}, True),
        ({"type": "array", "prefixItems": [{}], "items": {"$ref": "#"}, "minItems": 1}, False),
        ({"$defs": {"a": {"$anchor": "here", "type": "null"}}, "type": "object",
          "properties": {"n": {"$ref": "#here"}}, "required": ["n"]}, False),
        ({"type": "object", "properties": {"n": False}, "required": ["n"]}, False),
    ],
)  # fmt: skip
def test_is_endless_where_every_document_contains_itself(wanted: Any, endless: bool) -> None:
    assert is_endless(wanted) == endless


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        ('start: "yes" /x{0}/', "yes"),
        ('start: START\nSTART: "yes" ~NONE\nNONE: /[^y]/', None),
        ('start: "a" start_of | "b"\nstart_of: /x/', None),
        ('start: "{" (pair ("," pair)*)? "}"\npair: /k[0-9]/ ":" %json {"type": "boolean"}', None),
        ("start: START\nSTART: /(?s:.){3}/ & /a*/", "aaa"),
    ],
)
def test_grammar_that_ends_is_kept(tiny: EngineHarness, grammar: str, text: str | None) -> None:
    (answer,) = tiny.play(asked(LarkConstraint(grammar, "f"), max_tokens=20))
    assert answer.text == text or text is None


@pytest.mark.parametrize(
    ("wanted", "document"),
    [
        (RING | {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"const": 1}},
                 "required": ["b"], "additionalProperties": False}, {"b": 1}),
        (RING | {"type": "object", "properties": {"a": {
            "type": "object", "properties": {"c": {"$ref": "#/$defs/n"}}, "required": ["c"]}},
                 "additionalProperties": False}, {}),
        (RING | {"anyOf": [{"$ref": "#/$defs/n"}, {"const": "b"}]}, "b"),
        (RING | {"type": "array", "items": {"$ref": "#/$defs/n"}}, []),
        (RING | {"type": "object", "additionalProperties": {"$ref": "#/$defs/n"}}, {}),
    ],
)  # fmt: skip
def test_part_without_a_finite_document_is_never_begun(
    tiny: EngineHarness, wanted: dict[str, Any], document: object
) -> None:
    assert json.loads(tiny.play(asked(schema(wanted)))[0].text) == document


def test_part_that_looks_like_a_reference_and_is_a_value_stays() -> None:
    wanted = RING | {"const": {"$ref": "#/$defs/n", "minimum": -(2**63)}}
    assert without_endless_parts(wanted)["const"] == wanted["const"]
    assert within_reach(wanted) is wanted


# --- numbers at the edge ------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [
    {"minimum": -(2**63)}, {"minimum": -(2**63), "maximum": 5}, {"maximum": 2**63 - 1},
    {"exclusiveMinimum": -(2**63), "exclusiveMaximum": 2**63}, {"maximum": 1e308},
])  # fmt: skip
def test_64_bit_integer_is_said(tiny: EngineHarness, bounds: dict[str, Any]) -> None:
    (answer,) = tiny.play(asked(schema({"type": "integer", **bounds}), max_tokens=30))
    assert int(answer.text) >= LOWEST or answer.finish == "length"


def test_bound_that_cannot_be_kept_is_named_with_the_limit(tiny: EngineHarness) -> None:
    wanted = {"type": "object", "properties": {"a": {"type": "number", "minimum": 5e18}}}
    error = refused(tiny, asked(schema(wanted)))
    assert not isinstance(error, ConstraintTooCostly)
    assert error.message == (
        "response_format.properties.a: the range from 5e18 to any is not supported: bounds"
        " are at most 1e18"
    )


# --- what is too much ---------------------------------------------------------------------


def patterns(count: int) -> dict[str, Any]:
    return {"properties": {f"k{place}": {"pattern": f"{place}x"} for place in range(count)}}


@pytest.mark.parametrize(
    ("shape", "value", "limit"),
    [
        (
            RegexConstraint("a" * (CONSTRAINT_BYTES + 1), "f"),
            CONSTRAINT_BYTES + 1,
            CONSTRAINT_BYTES,
        ),
        (
            LarkConstraint("ä" * (CONSTRAINT_BYTES // 2 + 1), "f"),
            CONSTRAINT_BYTES + 2,
            CONSTRAINT_BYTES,
        ),
        (schema(patterns(PATTERNS + 1)), PATTERNS + 1, PATTERNS),
        (
            schema({"patternProperties": {f"{i}": {} for i in range(PATTERNS + 1)}}),
            PATTERNS + 1,
            PATTERNS,
        ),
        (schema({"enum": list(range(CHOICES + 1))}), CHOICES + 1, CHOICES),
        (
            schema({"anyOf": [{"type": "null"}] * (ALTERNATIVES + 1)}),
            ALTERNATIVES + 1,
            ALTERNATIVES,
        ),
    ],
)
def test_too_large_shape_is_refused_with_field_value_and_limit(
    tiny: EngineHarness, shape: AnswerConstraint, value: int, limit: int
) -> None:
    before = tiny.constraints.compiled
    error = refused(tiny, asked(shape))
    assert isinstance(error, ConstraintTooCostly)
    assert error.param == shape.field
    assert error.message.startswith(shape.field)
    assert {str(value), str(limit)} <= set(error.message.replace(";", " ").split())
    assert tiny.constraints.compiled == before


def test_too_many_patterns_of_all_tools_together_are_refused(talker: EngineHarness) -> None:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": patterns(PATTERNS // 2 + 1)}}
        for name in ("a", "b")
    ]
    error = refused(talker, asked(ToolCallConstraint(["a", "b"], "tool_choice"), tools=tools))
    assert isinstance(error, ConstraintTooCostly)
    assert error.param == "tools"


@pytest.mark.process
def test_grammar_that_takes_too_long_is_ended_and_the_next_one_kept(tiny: EngineHarness) -> None:
    error = refused(tiny, asked(LarkConstraint(ENDLESS_WORK, "f")))
    assert isinstance(error, ConstraintTooCostly)
    assert error.param == "f"
    (answer,) = tiny.play(asked(LarkConstraint('start: "yes"', "f")))
    assert answer.text == "yes"


def test_ambiguous_grammar_ends_its_row_before_a_step_takes_long(tiny: EngineHarness) -> None:
    grammar = 'start: a\na: a a a | a a | "" | /[a-z]/'
    (answer,) = tiny.play(asked(LarkConstraint(grammar, "f"), temperature=1, max_tokens=200))
    assert answer.failed is None or answer.failed.code == ConstraintFailed.code


@pytest.mark.process
def test_trials_helper_that_dies_is_a_verdict_and_is_replaced() -> None:
    trials = Trials("{}", [0], command=("false",))
    trial = Trial(['start: "a"'], PLAIN_ITEMS)
    assert trials.verdict(trial) is None
    assert trials.verdict(trial) is None
    trials.close()


DIES_ONCE = """
import os, sys
if not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w").close()
    os.kill(os.getpid(), 9)
sys.stdin.readline()
sys.stdin.readline()
print('{"fault": "", "place": 0}', flush=True)
sys.stdin.readline()
"""


@pytest.mark.process
def test_trials_helper_that_is_killed_once_says_nothing_of_the_grammar(tmp_path: Path) -> None:
    trials = Trials("{}", [0], command=(sys.executable, "-c", DIES_ONCE, str(tmp_path / "died")))
    assert trials.verdict(Trial(['start: "a"'], PLAIN_ITEMS)) == Verdict()
    trials.close()


@pytest.mark.process
def test_trials_without_a_process_is_no_fault_of_the_grammar() -> None:
    trials = Trials("{}", [0], command=("/nowhere/python",))
    with pytest.raises(Unavailable, match="cannot be started"):
        trials.verdict(Trial(['start: "a"'], PLAIN_ITEMS))


@pytest.mark.process
def test_trials_helper_imports_nothing_from_the_working_folder(
    tiny: EngineHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    trials = Trials(
        tiny.tokenizer._tokenizer.backend_tokenizer.to_str(), list(tiny.tokenizer.eos_token_ids)
    )
    assert trials.verdict(Trial(['start: "a"'], PLAIN_ITEMS)) == Verdict()
    trials.close()


@pytest.mark.process
def test_trials_names_the_grammar_that_has_the_fault(tiny: EngineHarness) -> None:
    trials = Trials(
        tiny.tokenizer._tokenizer.backend_tokenizer.to_str(), list(tiny.tokenizer.eos_token_ids)
    )
    good, bad = 'start: "a"', "start: start"
    verdict = trials.verdict(Trial([good, bad], PLAIN_ITEMS))
    assert verdict is not None
    assert verdict.place == 1
    assert trials.verdict(Trial([good], PLAIN_ITEMS)) == Verdict()
    trials.close()


@pytest.mark.process
def test_trials_helper_that_ended_between_two_trials_is_replaced_unnoticed(
    tiny: EngineHarness,
) -> None:
    trials = Trials(
        tiny.tokenizer._tokenizer.backend_tokenizer.to_str(), list(tiny.tokenizer.eos_token_ids)
    )
    trial = Trial(['start: "a"'], PLAIN_ITEMS)
    before = set(psutil.Process().children())
    assert trials.verdict(trial) == Verdict()
    (helper,) = set(psutil.Process().children()) - before
    helper.kill()
    psutil.wait_procs([helper], timeout=60)
    assert trials.verdict(trial) == Verdict()
    trials.close()


# --- what is large and kept ---------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [[f"choice {place}" for place in range(10_000)], ["a", "ab", "abc"], ["", "a"]]
)
def test_one_of_many_choices_is_said(tiny: EngineHarness, words: list[str]) -> None:
    from mlx_worker.api.dialects.fields import CommonFields, StructuredOutputs  # noqa: PLC0415
    from mlx_worker.api.dialects.structured_output import resolve_constraint  # noqa: PLC0415

    shape = resolve_constraint(
        CommonFields(structured_outputs=StructuredOutputs(choice=words)), None
    )
    answers = tiny.play(*(asked(shape, seed=seed, temperature=1) for seed in range(4)))
    assert {answer.finish for answer in answers} == {"stop"}
    assert all(answer.text in words for answer in answers)


def test_large_enum_is_kept(tiny: EngineHarness) -> None:
    words = [f"value {place}" for place in range(5_000)]
    (answer,) = tiny.play(asked(schema({"enum": words})))
    assert json.loads(answer.text) in words
