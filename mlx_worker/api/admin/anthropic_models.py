"""Return the list of models in Anthropic's shape, a page at a time.

[front]
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from mlx_worker.api.admin.schemas import AnthropicModel, AnthropicModelList
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from mlx_worker.api.admin.schemas import ModelEntry

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 1000

QUERY: Final = ("after_id", "before_id", "limit", "lifecycle[]")

_ACTIVE: Final = "active"
_LIFECYCLES: Final = (_ACTIVE, "deprecated", "retired")


def anthropic_model(listed: ModelEntry) -> AnthropicModel:
    """Return one entry in Anthropic's shape."""
    created = datetime.fromtimestamp(listed.created, UTC)
    return AnthropicModel(
        id=listed.id,
        display_name=listed.id,
        created_at=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        max_input_tokens=listed.context_length,
        max_tokens=listed.context_length,
    )


def models_page(request: web.Request, entries: Sequence[ModelEntry]) -> AnthropicModelList:
    """Return the part of the list that the query asks for. Raises InvalidRequest."""
    models = [anthropic_model(model) for model in entries] if _wants_active(request) else []
    limit = _limit(request)
    after, before = request.query.get("after_id"), request.query.get("before_id")
    if after is not None and before is not None:
        raise InvalidRequest("before_id: cannot be combined with after_id", param="before_id")
    if before is not None:
        end = _index_of(models, before, "before_id")
        start = max(0, end - limit)
        has_more = start > 0
    else:
        start = 0 if after is None else _index_of(models, after, "after_id") + 1
        end = start + limit
        has_more = end < len(models)
    shown = models[start:end]
    return AnthropicModelList(
        data=shown,
        has_more=has_more,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
    )


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0  # noqa: PLR2004
    if not 1 <= number <= MAX_LIMIT:
        raise InvalidRequest(
            f"limit: {text!r} is not a number from 1 to {MAX_LIMIT}", param="limit"
        )
    return number


def _wants_active(request: web.Request) -> bool:
    """Return True unless the query asks for other stages only: every model here is active."""
    query = request.query
    stages = [*query.getall("lifecycle", ()), *query.getall("lifecycle[]", ())]
    for stage in stages:
        if stage not in _LIFECYCLES:
            raise InvalidRequest(
                f"lifecycle: {stage!r} is not one of {', '.join(_LIFECYCLES)}", param="lifecycle"
            )
    return not stages or _ACTIVE in stages


def _index_of(models: Sequence[AnthropicModel], name: str, field: str) -> int:
    for index, model in enumerate(models):
        if model.id == name:
            return index
    raise InvalidRequest(f"{field}: no model of this list is named {name!r}", param=field)
