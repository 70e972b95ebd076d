"""The budget of reasoning, by every name that a request or a configuration may have for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from mlx_worker.api.dialects.chat import request as chat
from mlx_worker.api.dialects.completions import request as completions
from mlx_worker.api.dialects.messages import request as messages
from mlx_worker.api.dialects.model_terms import ModelSettings, ModelTerms
from mlx_worker.api.dialects.reasoning_limit import BUDGET_FIELDS
from mlx_worker.api.dialects.responses import request as responses
from mlx_worker.config.schema import Defaults
from mlx_worker.errors import InvalidRequest, UnsupportedField
from mlx_worker.wire.request import LoopRule

if TYPE_CHECKING:
    from types import ModuleType

    from mlx_worker.wire.request import ChatRequest

TURNS: Final = [{"role": "user", "content": "Hello"}]
BODIES: Final[dict[ModuleType, dict[str, Any]]] = {
    chat: {"messages": TURNS},
    responses: {"input": "Hello"},
    messages: {"messages": TURNS},
}
EFFORTS: Final[dict[ModuleType, Any]] = {
    chat: lambda effort: {"reasoning_effort": effort},
    responses: lambda effort: {"reasoning": {"effort": effort}},
    messages: lambda effort: {"output_config": {"effort": effort}},
}
RULE: Final = LoopRule(4, 256)
MAPPED: Final = {"none": 0, "low": 512, "max": -1}


def asked(dialect: ModuleType, settings: ModelTerms | None = None, **fields: Any) -> ChatRequest:
    body = json.dumps(BODIES[dialect] | fields).encode()
    request: ChatRequest = dialect.parse(body, lambda _: settings or ModelTerms()).chats[0]
    return request


def terms(default: int | None = None, **template_kwargs: Any) -> ModelTerms:
    """Return the terms of a model that has budgets for some efforts."""
    settings = ModelSettings(None, template_kwargs, (), MAPPED, RULE)
    return ModelTerms(Defaults(max_reasoning_tokens=default), settings=settings)


every_dialect = pytest.mark.parametrize(
    "dialect", BODIES, ids=lambda module: module.__name__.split(".")[3]
)


@every_dialect
@pytest.mark.parametrize("field", BUDGET_FIELDS)
def test_budget_by_every_name_is_the_same(dialect: ModuleType, field: str) -> None:
    assert asked(dialect, ModelTerms(), **{field: 9}).thinking_budget == 9
    assert asked(dialect, ModelTerms(), **{field: 0}).thinking_budget == 0
    assert asked(dialect, terms(7), **{field: -1}).thinking_budget is None
    with pytest.raises(InvalidRequest) as refused:
        asked(dialect, ModelTerms(), **{field: -2})
    assert refused.value.param == field
    assert "-1" in refused.value.message
    assert "-2" in refused.value.message


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        (chat, {"thinking": {"type": "enabled", "budget_tokens": 9}}),
        (chat, {"reasoning": {"max_tokens": 9}}),
        (chat, {"reasoning": {"max_tokens": 9}, "thinking_budget": 9}),
        (messages, {"thinking": {"type": "enabled", "budget_tokens": 9}}),
        (messages, {"thinking": {"type": "enabled", "budget_tokens": 9}, "max_tokens": 5}),
    ],
)
def test_budget_in_a_dialects_own_field_is_honoured(
    dialect: ModuleType, fields: dict[str, Any]
) -> None:
    assert asked(dialect, **fields).thinking_budget == 9


@pytest.mark.parametrize(
    ("dialect", "fields", "param"),
    [
        (chat, {"thinking_budget": 1, "reasoning_budget": 2}, "reasoning_budget"),
        (chat, {"thinking_budget": 1, "reasoning": {"max_tokens": 2}}, "reasoning.max_tokens"),
        (
            messages,
            {"thinking_budget": 1, "thinking": {"type": "enabled", "budget_tokens": 2}},
            "thinking.budget_tokens",
        ),
    ],
)
def test_budgets_that_differ_are_refused_with_both_names(
    dialect: ModuleType, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(dialect, **fields)
    assert refused.value.param == param
    assert refused.value.message == f"{param}: 2 contradicts thinking_budget, which is 1"


@every_dialect
def test_effort_has_the_budget_of_the_configuration(dialect: ModuleType) -> None:
    effort = EFFORTS[dialect]
    assert asked(dialect, terms(7)).thinking_budget == 7
    assert asked(dialect, terms(7), **effort("low")).thinking_budget == 512
    assert asked(dialect, terms(7), **effort("high")).thinking_budget == 7
    assert asked(dialect, terms(7), **effort("max")).thinking_budget is None
    assert asked(dialect, terms(), **effort("none")).thinking_budget == 0
    assert asked(dialect, terms(), **effort("low"), thinking_budget=5).thinking_budget == 5
    assert asked(dialect, terms(), **effort("high")).thinking_budget is None
    assert asked(dialect, **effort("low")).thinking_budget is None


@every_dialect
def test_effort_of_the_templates_arguments_has_its_budget(dialect: ModuleType) -> None:
    assert asked(dialect, terms(reasoning_effort="low")).thinking_budget == 512
    kwargs = {"chat_template_kwargs": {"reasoning_effort": "none"}}
    assert asked(dialect, terms(reasoning_effort="low"), **kwargs).thinking_budget == 0
    assert asked(dialect, terms(), enable_thinking=False).thinking_budget == 0


@pytest.mark.parametrize("field", BUDGET_FIELDS)
def test_completions_refuse_a_budget(field: str) -> None:
    with pytest.raises(UnsupportedField) as refused:
        completions.parse(json.dumps({"prompt": "Hello", field: 9}).encode())
    assert refused.value.param == field
    completions.parse(json.dumps({"prompt": "Hello", field: -1}).encode())


def test_loop_rule_is_added_to_every_request() -> None:
    settings = terms().settings
    assert settings.apply_to(asked(chat))[0].loop_rule == RULE
    raw = completions.parse(json.dumps({"prompt": "Hello"}).encode()).chats[0]
    assert settings.apply_to(raw)[0].loop_rule == RULE
    assert raw.loop_rule is None
