"""The form of an answer that a request asks for, as one grammar for llguidance.

A model that reasons does so first, between its markers and without constraint. Then comes the
content that was asked for, or, where tools are offered, calls; nothing else. The grammar covers the
whole answer, so that no code has to watch for the end of reasoning, and no answer ends before its
content. [child]
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
"""A space, or a new line and its indentation: without a limit a model may write blanks for ever.
What llguidance does not support in a schema is an error, never ignored."""

BYTES_ONLY = '%llguidance {"no_forcing": true}'
"""Where only one text can follow, llguidance would force the tokens that a tokenizer makes of the
text, special tokens included: then neither text nor token would fit."""


def content_grammar(shape: ContentShape) -> str:
    """Return the grammar of the content alone, in llguidance's notation; not checked.

    Raises InvalidRequest for a grammar in another notation that cannot be converted.
    """
    match shape:
        case JsonSchemaConstraint():
            return of_schema(json.loads(shape.schema))
        case RegexConstraint():
            return LLMatcher.grammar_from_regex(shape.pattern)
        case LarkConstraint():
            # As JSON: a text that looks like a list of grammars would be taken for one.
            return json.dumps({"grammars": [{"lark_grammar": as_lark(shape.grammar, shape.field)}]})


def of_schema(schema: Schema) -> str:
    """Return the grammar of the documents that a schema describes."""
    kept = within_reach(without_endless_parts(schema))
    return LLMatcher.grammar_from_json_schema(kept, overrides=JSON_STYLE)


def answer_grammar(request: ChatRequest, prompt: Prompt, tokenizer: Any, lark: LarkWriter) -> str:
    """Return the grammar of a whole answer, made of parts that have been checked.

    Raises UnsupportedField where the model's format does not allow a constraint.
    """
    shape = request.constraint
    assert shape is not None
    if request.prompt is not None:  # without a template the answer is content only
        assert not isinstance(shape, ToolCallConstraint)
        return _joined(["start: @content"], {"content": content_grammar(shape)})
    if tokenizer.structural_markers or tokenizer.response_transitions:
        raise UnsupportedField(
            f"{shape.field}: not supported for the format of this model's answers",
            param=shape.field,
        )
    parts: dict[str, str] = {}
    if isinstance(shape, ToolCallConstraint):
        body, rules = forced_calls(tokenizer, lark, shape.names, one=request.one_call)
        schemas = arguments_of(request.tools, shape.names)
        parts = {f"args_{place}": of_schema(schema) for place, schema in enumerate(schemas)}
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
    """Return the expression and rules of reasoning: to be continued, optional, or already over."""
    if not tokenizer.has_thinking:
        return "", []
    inside, rule = lark.up_to(tokenizer.think_end, "thought")
    if prompt.state == REASONING:
        return inside, [rule]
    if has_thought(tokenizer, prompt.tokens):
        return "", []
    return f"({lark.word(tokenizer.think_start)} {inside})?", [rule]


def _joined(answer: list[str], parts: dict[str, str]) -> str:
    """Return one grammar, in lines, that names others."""
    lark = "\n".join([BYTES_ONLY, *answer])
    grammars: list[Schema] = [{"name": "answer", "lark_grammar": lark}]
    for name, grammar in parts.items():
        grammars.append(_alone(grammar) | {"name": name})
    return json.dumps({"grammars": grammars})


def _alone(grammar: str) -> Schema:
    """Return a grammar as an entry of llguidance's list of grammars; Lark comes bare."""
    if not grammar.startswith('{"grammars"'):
        return {"lark_grammar": grammar}
    (only,) = json.loads(grammar)["grammars"]
    assert isinstance(only, dict)
    return only
