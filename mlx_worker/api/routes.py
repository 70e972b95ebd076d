"""Every endpoint: the router is filled from this table, `openapi.json` made of it. [front]"""

from __future__ import annotations

from mlx_worker.api import handlers, openapi
from mlx_worker.api.admin import endpoints, schemas
from mlx_worker.api.admin.log_level import LevelBody
from mlx_worker.api.admin.reload import CannotReload, Reloaded
from mlx_worker.api.dashboard import stream as watch
from mlx_worker.api.dialects.cache_warm import WarmRequest
from mlx_worker.api.dialects.chat.request import ChatCompletionRequest
from mlx_worker.api.dialects.completions.request import CompletionRequest
from mlx_worker.api.dialects.messages import models_list
from mlx_worker.api.dialects.messages.request import MessageRequest
from mlx_worker.api.dialects.responses.request import ResponseRequest
from mlx_worker.api.dialects.tokenize import DetokenizeRequest, TokenizeRequest
from mlx_worker.api.route import AWAY, EVENTS, GENERATED, READ, Keys, Route, Text
from mlx_worker.errors import (
    ContextLengthExceeded,
    KvTooLarge,
    MemoryFull,
    ModelBusy,
    ModelTooLarge,
    NodeDraining,
    Unavailable,
    UnknownModel,
)

_HEALTH = Keys.of(
    "status reason version uptime addresses health cache metrics standby memory models"
)
_CACHE = Keys.of("tokens systemPromptHash lastUpdated hitRate")
_COMPLETION = Keys.of("id object created model system_fingerprint choices usage seed")
_RESPONSE = Keys.of(
    "id object created_at model status error incomplete_details output usage seed instructions"
    " max_output_tokens metadata parallel_tool_calls reasoning temperature top_p text tool_choice"
    " tools background previous_response_id store truncation"
)
_MESSAGE = Keys.of("id type role model content stop_reason stop_sequence usage")

ROUTES = (
    # --- generation -----------------------------------------------------------------------
    Route(
        method="POST",
        path="chat/completions",
        handler=handlers.chat_completions,
        does="OpenAI chat completions",
        body=ChatCompletionRequest,
        answer=_COMPLETION,
        streams=True,
        errors=GENERATED,
    ),
    Route(
        method="POST",
        path="completions",
        handler=handlers.completion,
        does="OpenAI completions (legacy): raw prompts, by text or token ids",
        body=CompletionRequest,
        answer=_COMPLETION,
        streams=True,
        errors=GENERATED,
    ),
    Route(
        method="POST",
        path="responses",
        handler=handlers.response,
        does="OpenAI responses; the conversation comes with every request",
        body=ResponseRequest,
        answer=_RESPONSE,
        streams=True,
        errors=GENERATED,
    ),
    Route(
        method="POST",
        path="messages",
        handler=handlers.message,
        does="Anthropic messages",
        body=MessageRequest,
        answer=_MESSAGE,
        streams=True,
        errors=GENERATED,
    ),
    # --- tokens ---------------------------------------------------------------------------
    Route(
        method="POST",
        path="messages/count_tokens",
        handler=handlers.count_tokens,
        does="How many tokens the model would read",
        body=MessageRequest,
        answer=schemas.TokenCount,
        errors=READ,
    ),
    Route(
        method="POST",
        path="tokenize",
        handler=handlers.tokenize,
        does="The tokens of a text",
        body=TokenizeRequest,
        answer=schemas.Tokenized,
        errors=READ,
    ),
    Route(
        method="POST",
        path="detokenize",
        handler=handlers.detokenize,
        does="The text of tokens",
        body=DetokenizeRequest,
        answer=schemas.Detokenized,
        errors=READ,
    ),
    # --- the node -------------------------------------------------------------------------
    Route(
        method="GET",
        path="models",
        handler=handlers.models,
        does="Configured models and aliases, loaded or not",
        answer=schemas.ModelList,
        anthropic=schemas.AnthropicModelList,
        query=models_list.QUERY,
        errors=(NodeDraining, Unavailable),
    ),
    Route(
        method="GET",
        path="models/{id:.+}",
        handler=handlers.model,
        does="One of them",
        answer=schemas.ModelEntry,
        anthropic=schemas.AnthropicModel,
        errors=(UnknownModel, NodeDraining, Unavailable),
    ),
    Route(
        method="GET",
        path="health",
        handler=handlers.health,
        does="How node and models are, in the body; `?brief` says little of each model",
        answer=_HEALTH,
        query=("brief",),
    ),
    Route(
        method="GET",
        path="cluster/health",
        handler=handlers.cluster_health,
        does="The same, and whether a request would be served now in the status",
        answer=_HEALTH,
        query=("brief",),
        statuses=(200, 503),
    ),
    Route(
        method="GET",
        path="health/live",
        handler=handlers.live,
        does="The process is up",
        answer=schemas.Readiness,
    ),
    Route(
        method="GET",
        path="health/ready",
        handler=handlers.ready,
        does="A model can serve",
        answer=schemas.Readiness,
        statuses=(200, 503),
    ),
    Route(
        method="GET",
        path="openapi.json",
        handler=openapi.served,
        does="This document",
        answer=Keys.of("openapi info servers security paths components"),
    ),
    # --- cache ----------------------------------------------------------------------------
    *(
        Route(
            method="GET",
            path=path,
            handler=handlers.cache_state,
            does="What is resident",
            answer=_CACHE,
            query=("model",),
            errors=(UnknownModel,),
        )
        for path in ("cache", "cluster/cache")
    ),
    Route(
        method="DELETE",
        path="cache",
        handler=handlers.cache_clear,
        does="Forget cached prompts",
        answer=schemas.Cleared,
        query=("model",),
        errors=(UnknownModel, NodeDraining),
    ),
    *(
        Route(
            method="POST",
            path=path,
            handler=handlers.cache_warm,
            does="Read a system prompt and keep it; goes on when its caller hangs up",
            body=WarmRequest,
            answer=schemas.Warmed,
            errors=(UnknownModel, *AWAY, ContextLengthExceeded, KvTooLarge),
        )
        for path in ("cache/warm", "cluster/cache/warm")
    ),
    # --- observation ----------------------------------------------------------------------
    Route(
        method="GET",
        path="metrics",
        handler=endpoints.metrics,
        does="Counts for Prometheus",
        answer=Text(("text/plain", endpoints.OPENMETRICS)),
    ),
    Route(
        method="GET",
        path="admin/events",
        handler=endpoints.events,
        does="What happened last, the oldest first",
        answer=Keys.of("events"),
        query=("after",),
    ),
    Route(
        method="GET",
        path="admin/events/stream",
        handler=endpoints.live_events,
        does="The same, and then whatever happens",
        answer=EVENTS,
        query=("after",),
    ),
    Route(
        method="GET",
        path="admin/watch",
        handler=watch.watch,
        does="What the page shows: events, and all figures once a second",
        answer=EVENTS,
        query=("after",),
    ),
    Route(
        method="GET",
        path="admin/history",
        handler=watch.history,
        does="The last hour, a sample every ten seconds",
        answer=Keys.of("every samples"),
        query=("after",),
    ),
    Route(
        method="GET",
        path="admin/logs",
        handler=endpoints.log_lines,
        does="The node's last lines, or all that one model's processes wrote",
        answer=Keys.of("level lines"),
        query=("model", "after"),
        errors=(UnknownModel,),
    ),
    Route(
        method="GET",
        path="admin/logs/stream",
        handler=endpoints.live_log_lines,
        does="The same, and then whatever comes",
        answer=EVENTS,
        query=("model", "after"),
        errors=(UnknownModel,),
    ),
    Route(
        method="PUT",
        path="admin/logs/level",
        handler=endpoints.log_level,
        does="From which level on lines are shown, until it is set again",
        body=LevelBody,
        answer=Keys.of("level"),
    ),
    # --- administration -------------------------------------------------------------------
    Route(
        method="POST",
        path="admin/reload",
        handler=handlers.reload,
        does="Read the configuration again",
        answer=Reloaded,
        errors=(CannotReload, NodeDraining),
    ),
    Route(
        method="POST",
        path="admin/models/{id:.+}/restart",
        handler=handlers.restart,
        does="A new process for a model, also for one that was given up",
        answer=schemas.Restarting,
        statuses=(202,),
        errors=(UnknownModel, MemoryFull, ModelTooLarge, NodeDraining),
    ),
    Route(
        method="POST",
        path="admin/models/{id:.+}/load",
        handler=handlers.load,
        does="Start a model, also one that was given up",
        answer=schemas.Loading,
        statuses=(202,),
        errors=(UnknownModel, MemoryFull, ModelTooLarge, NodeDraining),
    ),
    Route(
        method="POST",
        path="admin/models/{id:.+}/unload",
        handler=handlers.unload,
        does="End a model's process until somebody needs it",
        answer=schemas.Unloading,
        statuses=(202,),
        errors=(UnknownModel, ModelBusy, NodeDraining),
    ),
)
