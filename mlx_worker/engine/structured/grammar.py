"""What a request asks of the shape of its answer, as one grammar for llguidance.

A model that reasons does so first, between its markers and as it likes; then comes the content that
was asked for, or, where tools are offered, calls; nothing else. A grammar that covers all of it
needs nobody to watch for the end of reasoning, and lets no answer end before its content. [child]
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher

from mlx_worker.engine.output.markers import REASONING, has_thought
from mlx_worker.engine.structured.call_grammar import forced_calls, free_calls
from mlx_worker.engine.structured.endless_schema import without_endless_parts
from mlx_worker.engine.structured.gbnf import as_lark
from mlx_worker.engine.structured.schema_bounds import within_reach
from mlx_worker.errors import UnsupportedField
from mlx_worker.wire.request import (
    ChatRequest,
    JsonSchemaConstraint,
    LarkConstraint,
    RegexConstraint,
    ToolCallConstraint,
)
from mlx_worker.wire.tool_call_schemas import arguments_of

if TYPE_CHECKING:
    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.engine.structured.lark import LarkWriter

    Schema = dict[str, Any]
    ContentShape = JsonSchemaConstraint | RegexConstraint | LarkConstraint

JSON_STYLE: Any = {"whitespace_pattern": "( |\\n[ \\t]{0,16})", "lenient": False}
"""A space, or a new line and its indentation: a model that has nothing to say would else go on with
blanks for ever. What llguidance does not know of a schema is an error, never ignored."""

BYTES_ONLY = '%llguidance {"no_forcing": true}'
"""Where one text alone can follow, llguidance would ask for the tokens that a tokenizer makes of
it, a special token for what is spelled like one: then neither text nor token would fit."""


def content_grammar(shape: ContentShape) -> str:
    """The grammar of the content alone, as llguidance takes it; not checked.

    Raises InvalidRequest for a grammar in another notation that cannot be converted.
    """
    match shape:
        case JsonSchemaConstraint():
            return of_schema(json.loads(shape.schema))
        case RegexConstraint():
            return LLMatcher.grammar_from_regex(shape.pattern)
        case LarkConstraint():
            # As JSON, or a text that looks like a list of grammars would be taken for one.
            return json.dumps({"grammars": [{"lark_grammar": as_lark(shape.grammar, shape.field)}]})


def of_schema(schema: Schema) -> str:
    """The grammar of the documents that a schema describes."""
    kept = within_reach(without_endless_parts(schema))
    return LLMatcher.grammar_from_json_schema(kept, overrides=JSON_STYLE)


def answer_grammar(request: ChatRequest, prompt: Prompt, tokenizer: Any, lark: LarkWriter) -> str:
    """The grammar of a whole answer; what it is made of has been checked.

    Raises UnsupportedField where the model's format has no place for it.
    """
    shape = request.constraint
    assert shape is not None
    if request.prompt is not None:  # no template: what is answered is content and nothing else
        assert not isinstance(shape, ToolCallConstraint)
        return _joined(["start: @content"], {"content": content_grammar(shape)})
    if tokenizer.structural_markers or tokenizer.response_transitions:
        raise UnsupportedField(
            f"{shape.field}: this model's answers have a format that no grammar is known for",
            param=shape.field,
        )
    parts: dict[str, str] = {}
    if isinstance(shape, ToolCallConstraint):
        body, rules = forced_calls(tokenizer, lark, shape.names, one=request.one_call)
        schemas = arguments_of(request.tools, shape.names)
        parts = {f"args_{place}": of_schema(it) for place, it in enumerate(schemas)}
    else:
        body, rules = "@content", []
        parts = {"content": content_grammar(shape)}
        if request.tools:
            calls, rules = free_calls(tokenizer, lark, one=request.one_call)
            body = f"@content | {calls}"
    thought, more = _thought(prompt, tokenizer, lark)
    lines = [f"start: {thought} ({body})", *rules, *more]
    return _joined(lines, parts)


def _thought(prompt: Prompt, tokenizer: Any, lark: LarkWriter) -> tuple[str, list[str]]:
    """Reasoning: gone on with, begun by the model itself if it likes, or over and done."""
    if not tokenizer.has_thinking:
        return "", []
    inside, rule = lark.up_to(tokenizer.think_end, "thought")
    if prompt.state == REASONING:
        return inside, [rule]
    if has_thought(tokenizer, prompt.tokens):
        return "", []
    return f"({lark.word(tokenizer.think_start)} {inside})?", [rule]


def _joined(answer: list[str], parts: dict[str, str]) -> str:
    """One grammar, in lines, that names others."""
    lark = "\n".join([BYTES_ONLY, *answer])
    grammars: list[Schema] = [{"name": "answer", "lark_grammar": lark}]
    for name, grammar in parts.items():
        grammars.append(_alone(grammar) | {"name": name})
    return json.dumps({"grammars": grammars})


def _alone(grammar: str) -> Schema:
    """A grammar as llguidance's list of grammars has it: Lark comes bare."""
    if not grammar.startswith('{"grammars"'):
        return {"lark_grammar": grammar}
    (only,) = json.loads(grammar)["grammars"]
    assert isinstance(only, dict)
    return only
