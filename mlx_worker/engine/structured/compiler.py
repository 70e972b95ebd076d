"""Requests to the constraints of their rows, and the problems of requests that have none.

A grammar is compiled once, however many choices, prompts or requests have the same: the result, or
the refusal, is kept for the last few. llguidance's form of the vocabulary takes a while to make
(0.3 s for 49,000 tokens) and holds the interpreter meanwhile: the vocabulary is made while the
model is loaded, not beside running streams. [child]
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import OrderedDict
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer

from mlx_worker.engine.structured.compile_trials import SECONDS, Trials
from mlx_worker.engine.structured.constraint import Constraint
from mlx_worker.engine.structured.endless_schema import is_endless
from mlx_worker.engine.structured.grammar import answer_grammar, content_grammar, of_schema
from mlx_worker.engine.structured.lark import LarkWriter
from mlx_worker.engine.structured.lark_rules import read_rules
from mlx_worker.engine.structured.refusals import refusal, too_costly
from mlx_worker.engine.structured.schema_errors import place_of
from mlx_worker.errors import ConstraintFailed, InvalidRequest, UnsupportedField, cause_of
from mlx_worker.grammar_trial.trial import (
    FREE_ITEMS,
    NOTHING_FITS,
    PLAIN_ITEMS,
    Trial,
    Verdict,
    fault_of,
    limits_of,
    try_grammars,
)
from mlx_worker.limits import check_constraint
from mlx_worker.wire.request import (
    AnswerConstraint,
    ChatRequest,
    JsonSchemaConstraint,
    LarkConstraint,
    ToolCallConstraint,
)
from mlx_worker.wire.tool_call_schemas import arguments_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from llguidance import LLTokenizer

    from mlx_worker.engine.prompt import Prompt
    from mlx_worker.engine.structured.grammar import Schema

KEPT: Final = 16
"""Grammars of answers."""

SEARCH: Final = 0.2
"""Seconds in which the place of a schema's fault is searched."""

COSTLY_WORDS: Final = ("pattern", "patternProperties", "allOf", "multipleOf", "format", "not")
"""Keywords of a schema that become intersections of regexes, whose work has no limit."""


class ConstraintCompiler:
    """Compile constraints for one model. Called by one thread, after `prepare` by another."""

    def __init__(self, tokenizer: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokenizer = tokenizer
        self._clock = clock
        self._made: OrderedDict[bytes, LLMatcher | InvalidRequest] = OrderedDict()
        self.compiled = 0
        """Grammars of answers compiled so far."""

    def prepare(self) -> None:
        """Make the vocabulary now; a tokenizer without one refuses grammars later."""
        with contextlib.suppress(InvalidRequest):
            self._check_vocabulary("")

    def compile(self, request: ChatRequest, prompt: Prompt) -> Constraint | None:
        """Return the constraint of a request's answer. Raises InvalidRequest with the place."""
        shape = request.constraint
        if shape is None:
            return None
        self._check_vocabulary(shape.field)
        check_constraint(request)
        try:
            whole = answer_grammar(request, prompt, self._tokenizer, self._lark)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"{shape.field}: {error}", param=shape.field) from error
        matcher = self._known(whole, shape, request.tools)
        return Constraint(matcher.deep_copy())

    def _known(self, whole: str, shape: AnswerConstraint, tools: list[Schema]) -> LLMatcher:
        """Return the matcher of an answer's grammar, a kept one if there is one."""
        key = sha256(whole.encode() + msgspec.json.encode(shape)).digest()
        made = self._made.get(key)
        if made is None:
            self.compiled += 1
            try:
                made = self._compiled(whole, shape, tools)
            except InvalidRequest as error:
                made = error.with_traceback(None)
            self._made[key] = made
            if len(self._made) > KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        if isinstance(made, InvalidRequest):
            raise type(made)(made.message, param=made.param)
        return made

    def _compiled(self, whole: str, shape: AnswerConstraint, tools: list[Schema]) -> LLMatcher:
        parts = _parts(shape, tools)
        for part, place, param in parts:
            if isinstance(part, dict) and is_endless(part):
                raise ConstraintFailed(
                    f"{place}: every document would be endless, because a required part requires"
                    " itself again",
                    param=param,
                )
        items = (
            PLAIN_ITEMS
            if isinstance(shape, JsonSchemaConstraint | ToolCallConstraint)
            else FREE_ITEMS
        )
        grammars = [*(_grammar(part, place, param) for part, place, param in parts), whole]
        verdict = self._verdict(Trial(grammars, items), shape)
        if verdict is None:
            raise too_costly(shape.field, SECONDS)
        if verdict.fault:
            part, place, param = [*parts, (None, shape.field, shape.field)][verdict.place]
            path = self._path(part, verdict.fault, shape)
            raise refusal(verdict.fault, place + path, param + path if place == param else param)
        if isinstance(shape, LarkConstraint):
            self._refuse_endless_rules(shape)
        matcher = LLMatcher(self._vocabulary, whole, log_level=0, limits=limits_of(items))
        if fault := fault_of(matcher):
            raise refusal(fault, shape.field, shape.field)
        # Asking for the first mask has built some of the lexer, which every copy has.
        return matcher

    def _refuse_endless_rules(self, shape: LarkConstraint) -> None:
        """Raise ConstraintFailed where a rule or a terminal has no finite text."""
        rules = read_rules(shape.grammar)
        if (endless := rules.endless_rule()) is not None:
            why = f"{shape.field}: every text of the rule {endless!r} would be endless"
            raise ConstraintFailed(why, param=shape.field)
        if not (trials := rules.trials()):
            return
        grammars = [content_grammar(LarkConstraint(grammar, shape.field)) for _, grammar in trials]
        verdict = self._verdict(Trial(grammars, FREE_ITEMS), shape)
        if verdict is not None and verdict.fault.startswith(NOTHING_FITS):
            why = f"{shape.field}: no text fits {trials[verdict.place][0]}"
            raise ConstraintFailed(why, param=shape.field)

    def _verdict(self, trial: Trial, shape: AnswerConstraint) -> Verdict | None:
        """Try grammars that are surely cheap here, others in the helper."""
        if isinstance(shape, JsonSchemaConstraint | ToolCallConstraint) and not _may_be_costly(
            trial.grammars
        ):
            return try_grammars(self._vocabulary, trial)
        return self._trials.verdict(trial)

    def _path(self, schema: Any, fault: str, shape: AnswerConstraint) -> str:
        """Return where in a schema a fault is, as precisely as could be found in time."""
        if not isinstance(schema, dict):
            return ""
        end = self._clock() + SEARCH

        def problem(part: Schema) -> str:
            if self._clock() > end:
                return ""
            try:
                grammar = of_schema(part)
            except ValueError as error:
                return str(error)
            verdict = self._verdict(Trial([grammar], PLAIN_ITEMS), shape)
            return verdict.fault if verdict is not None else ""

        return place_of(schema, fault, problem)

    def _check_vocabulary(self, field: str) -> None:
        if not self._tokenizer._tokenizer.is_fast:  # noqa: SLF001  (mlx_lm's wrapper hides it)
            raise UnsupportedField(
                f"{field}: not supported for this model, whose tokenizer is not in Rust",
                param=field,
            )
        try:
            _ = self._vocabulary
        except Exception as error:
            # llguidance reads the tokenizer's own description, and does not support all kinds.
            raise UnsupportedField(
                f"{field}: not supported with this model's tokenizer: {cause_of(error)}",
                param=field,
            ) from error

    @cached_property
    def _trials(self) -> Trials:
        description = self._tokenizer._tokenizer.backend_tokenizer.to_str()  # noqa: SLF001
        return Trials(description, list(self._tokenizer.eos_token_ids))

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        ends = list(self._tokenizer.eos_token_ids)
        return from_tokenizer(self._tokenizer._tokenizer, eos_token=ends)  # noqa: SLF001

    @cached_property
    def _lark(self) -> LarkWriter:
        added = self._tokenizer.added_tokens_decoder.items()
        vocabulary = self._vocabulary
        return LarkWriter(
            {token.content: id_ for id_, token in added if vocabulary.is_special_token(id_)}
        )


_Part = tuple[Any, str, str]
"""A schema or another shape, where a fault in it is, and which field an error names."""


def _parts(shape: AnswerConstraint, tools: list[Schema]) -> list[_Part]:
    """Return the parts that are tried by themselves, so that a fault has a place."""
    if isinstance(shape, JsonSchemaConstraint):
        return [(json.loads(shape.schema), shape.field, shape.field)]
    if isinstance(shape, ToolCallConstraint):
        schemas = arguments_of(tools, shape.names)
        named = zip(shape.names, schemas, strict=True)
        return [(schema, f"tools: the parameters of {name!r}", "tools") for name, schema in named]
    return [(shape, shape.field, shape.field)]


def _grammar(part: Any, place: str, param: str) -> str:
    try:
        return of_schema(part) if isinstance(part, dict) else content_grammar(part)
    except ValueError as error:
        raise InvalidRequest(f"{place}: {error}", param=param) from error


def _may_be_costly(grammars: list[str]) -> bool:
    return any(f'"{word}"' in grammar for grammar in grammars for word in COSTLY_WORDS)
