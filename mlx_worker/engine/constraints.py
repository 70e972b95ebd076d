"""Requests to the constraints of their rows, and what is wrong with those that make none.

The vocabulary as llguidance wants it takes a while to make (0.3 s of 49,000 tokens) and holds the
interpreter meanwhile: it is made for the first request that needs it. [child]
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, LLParserLimits
from llguidance.hf import from_tokenizer

from mlx_worker.engine.constraint import Constraint
from mlx_worker.engine.grammar import answer_grammar, arguments_of, content_grammar, of_schema
from mlx_worker.engine.lark import Lark
from mlx_worker.engine.schema_faults import place_of
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.wire import messages as m

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from mlx_worker.engine.grammar import ContentShape, Schema
    from mlx_worker.engine.prompt import Prompt

LIMITS = LLParserLimits(verbose_errors=False)


class Constraints:
    """One model's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def of(self, request: m.ChatRequest, prompt: Prompt) -> Constraint | None:
        """What binds the answer to this request. Raises InvalidRequest with the place."""
        shape = request.constraint
        if shape is None:
            return None
        self._check_vocabulary(shape.field)
        if isinstance(shape, m.Call):
            self._check_tools(request.tools, shape.names)
        else:
            self._check_content(shape)
        whole = answer_grammar(request, prompt, self._tokenizer, self._lark)
        return Constraint(self._matcher(whole, shape.field))

    def _check_vocabulary(self, field: str) -> None:
        if not self._tokenizer._tokenizer.is_fast:  # noqa: SLF001  (mlx_lm's wrapper hides it)
            raise UnsupportedField(
                f"{field}: this model's tokenizer is not in Rust; no grammar can be kept",
                param=field,
            )

    def _check_content(self, shape: ContentShape) -> None:
        if isinstance(shape, m.JsonSchema):
            self._check_schema(json.loads(shape.schema), shape.field, shape.field)
        else:
            self._matcher(content_grammar(shape), shape.field)

    def _check_tools(self, tools: list[Schema], names: list[str]) -> None:
        for name, schema in zip(names, arguments_of(tools, names), strict=True):
            self._check_schema(schema, f"tools: the parameters of {name!r}", "tools")

    def _check_schema(self, schema: Schema, place: str, field: str) -> None:
        if fault := self._fault(schema):
            path = place_of(schema, fault, self._fault)
            param = field if place != field else f"{field}{path}"
            raise InvalidRequest(f"{place}{path}: {fault}", param=param)

    def _fault(self, schema: Schema) -> str:
        try:
            grammar = of_schema(schema)
        except ValueError as error:
            return str(error)
        return LLMatcher.validate_grammar(grammar, self._vocabulary, limits=LIMITS)

    def _matcher(self, grammar: str, field: str) -> LLMatcher:
        matcher = LLMatcher(self._vocabulary, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise InvalidRequest(f"{field}: {matcher.get_error().strip()}", param=field)
        return matcher

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        ends = list(self._tokenizer.eos_token_ids)
        return from_tokenizer(self._tokenizer._tokenizer, eos_token=ends)  # noqa: SLF001

    @cached_property
    def _lark(self) -> Lark:
        added = self._tokenizer.added_tokens_decoder.items()
        vocabulary = self._vocabulary
        return Lark({it.content: id_ for id_, it in added if vocabulary.is_special_token(id_)})
