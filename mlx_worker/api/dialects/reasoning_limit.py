"""How many tokens of an answer may be reasoning, by the names that servers have for the number.

The first of these decides: a field of the request; the request's effort, where the model's
configuration has a budget for it; the model's default. Zero ends reasoning at once, -1 is no limit.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlx_worker.api.dialects.fields import CommonFields
    from mlx_worker.api.dialects.model_terms import ModelTerms

BUDGET_FIELDS: Final = (
    "max_reasoning_tokens",
    "thinking_token_budget",
    "thinking_budget",
    "thinking_budget_tokens",
    "reasoning_budget",
)
"""The node's own name; those of vLLM, of Qwen's and other services, and of llama.cpp."""

NO_LIMIT: Final = -1


def given_budgets(body: CommonFields) -> dict[str, int]:
    """Return the budgets that a body has, by field."""
    values = ((name, getattr(body, name)) for name in BUDGET_FIELDS)
    return {name: value for name, value in values if value is not None}


def resolve_thinking_budget(
    body: CommonFields,
    terms: ModelTerms,
    template_kwargs: Mapping[str, Any],
    dialects_own: Mapping[str, int | None] | None = None,
) -> int | None:
    """Return the most tokens of reasoning; None: no limit. Raises InvalidRequest.

    `dialects_own` are the fields of one dialect, by their paths.
    """
    own = (dialects_own or {}).items()
    given = given_budgets(body) | {name: value for name, value in own if value is not None}
    if len(set(given.values())) > 1:
        (first, value), (other, another) = list(given.items())[:2]
        raise InvalidRequest(
            f"{other}: {another} contradicts {first}, which is {value}", param=other
        )
    budget = next(iter(given.values()), None)
    if budget is None:
        effort = _effort(terms.settings.template_kwargs | dict(template_kwargs))
        budget = terms.settings.reasoning_budgets.get(effort)
    if budget is None:
        budget = terms.defaults.max_reasoning_tokens
    return None if budget == NO_LIMIT else budget


def _effort(template_kwargs: Mapping[str, Any]) -> str:
    """Return the effort that the template gets; "" for none."""
    if template_kwargs.get("enable_thinking") is False:
        return "none"
    effort = template_kwargs.get("reasoning_effort")
    return effort if isinstance(effort, str) else ""
