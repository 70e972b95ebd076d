"""List every endpoint: the table fills the router, and `openapi.json` is made of it.

[front]
"""

from __future__ import annotations

from functools import partial

from mlx_worker.api import openapi
from mlx_worker.api.admin import (
    anthropic_models,
    cache_endpoints,
    endpoints,
    health_endpoints,
    model_endpoints,
    process_report,
    request_endpoints,
    schemas,
)
from mlx_worker.api.admin.config_report import ConfigReport
from mlx_worker.api.admin.reload import CannotReload, Reloaded
from mlx_worker.api.dashboard import stream
from mlx_worker.api.dialects.messages.request import MessageRequest
from mlx_worker.api.dialects.native.cache_warm import WarmRequest
from mlx_worker.api.dialects.native.log_level import LogLevelRequest
from mlx_worker.api.dialects.native.tokenize import DetokenizeRequest, TokenizeRequest
from mlx_worker.api.dialects.registry import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from mlx_worker.api.generation import token_endpoints
from mlx_worker.api.generation.endpoints import generate
from mlx_worker.api.metrics.request_table import RequestRows
from mlx_worker.api.route import (
    EVENTS,
    GENERATION,
    MODEL_UNAVAILABLE,
    PROMPT_ONLY,
    JsonKeys,
    Route,
    Text,
)
from mlx_worker.errors import (
    ContextLengthExceeded,
    KvTooLarge,
    MemoryFull,
    ModelBusy,
    ModelTooLarge,
    NodeDraining,
    RequestNotFound,
    Unavailable,
    UnknownModel,
)

_HEALTH = JsonKeys.of(
    "status reason version uptime addresses health cache metrics standby memory models"
)
_CACHE = JsonKeys.of("tokens systemPromptHash lastUpdated hitRate")
_COMPLETION = JsonKeys.of("id object created model system_fingerprint choices usage seed")
_RESPONSE = JsonKeys.of(
    "id object created_at model status error incomplete_details output usage seed instructions"
    " max_output_tokens metadata parallel_tool_calls reasoning temperature top_p text tool_choice"
    " tools background previous_response_id store truncation"
)
_MESSAGE = JsonKeys.of("id type role model content stop_reason stop_sequence usage")

ROUTES = (
    # --- generation -----------------------------------------------------------------------
    Route(
        method="POST",
        path="chat/completions",
        handler=partial(generate, CHAT),
        access="trusted",
        summary="OpenAI chat completions",
        body=CHAT.body,
        answer=_COMPLETION,
        streams=True,
        errors=GENERATION,
    ),
    Route(
        method="POST",
        path="completions",
        handler=partial(generate, COMPLETIONS),
        access="trusted",
        summary="OpenAI completions (legacy): raw prompts, by text or token ids",
        body=COMPLETIONS.body,
        answer=_COMPLETION,
        streams=True,
        errors=GENERATION,
    ),
    Route(
        method="POST",
        path="responses",
        handler=partial(generate, RESPONSES),
        access="trusted",
        summary="OpenAI responses; each request contains the conversation",
        body=RESPONSES.body,
        answer=_RESPONSE,
        streams=True,
        errors=GENERATION,
    ),
    Route(
        method="POST",
        path="messages",
        handler=partial(generate, MESSAGES),
        access="trusted",
        summary="Anthropic messages",
        body=MESSAGES.body,
        answer=_MESSAGE,
        streams=True,
        errors=GENERATION,
    ),
    # --- tokens ---------------------------------------------------------------------------
    Route(
        method="POST",
        path="messages/count_tokens",
        handler=token_endpoints.count_tokens,
        access="trusted",
        summary="Number of tokens that the model would read",
        body=MessageRequest,
        answer=token_endpoints.TokenCount,
        errors=PROMPT_ONLY,
    ),
    Route(
        method="POST",
        path="tokenize",
        handler=token_endpoints.tokenize,
        access="trusted",
        summary="Tokens of a text",
        body=TokenizeRequest,
        answer=token_endpoints.TokenizeResponse,
        errors=PROMPT_ONLY,
    ),
    Route(
        method="POST",
        path="detokenize",
        handler=token_endpoints.detokenize,
        access="trusted",
        summary="Text of tokens",
        body=DetokenizeRequest,
        answer=token_endpoints.DetokenizeResponse,
        errors=PROMPT_ONLY,
    ),
    # --- the node -------------------------------------------------------------------------
    Route(
        method="GET",
        path="models",
        handler=model_endpoints.models,
        access="trusted",
        summary="Configured models and aliases, loaded or not",
        answer=schemas.ModelList,
        anthropic=schemas.AnthropicModelList,
        query=anthropic_models.QUERY,
        errors=(NodeDraining, Unavailable),
    ),
    Route(
        method="GET",
        path="models/{id:.+}",
        handler=model_endpoints.model,
        access="trusted",
        summary="One model or alias",
        answer=schemas.ModelEntry,
        anthropic=schemas.AnthropicModel,
        errors=(UnknownModel, NodeDraining, Unavailable),
    ),
    Route(
        method="GET",
        path="health",
        handler=health_endpoints.health,
        access="trusted",
        summary="Health of the node and its models; always 200, and `?brief` shortens the models",
        answer=_HEALTH,
        query=("brief",),
    ),
    Route(
        method="GET",
        path="cluster/health",
        handler=health_endpoints.cluster_health,
        access="trusted",
        summary="The same, with status 503 where no model can serve a request now",
        answer=_HEALTH,
        query=("brief",),
        statuses=(200, 503),
    ),
    Route(
        method="GET",
        path="health/live",
        handler=health_endpoints.live,
        access="public",
        summary="The process runs",
        answer=schemas.Readiness,
    ),
    Route(
        method="GET",
        path="health/ready",
        handler=health_endpoints.ready,
        access="public",
        summary="A model can serve requests",
        answer=schemas.Readiness,
        statuses=(200, 503),
    ),
    Route(
        method="GET",
        path="openapi.json",
        handler=openapi.openapi_document,
        summary="This document",
        answer=JsonKeys.of("openapi info servers security paths components"),
    ),
    # --- cache ----------------------------------------------------------------------------
    *(
        Route(
            method="GET",
            path=path,
            handler=cache_endpoints.cache_state,
            access="trusted",
            summary="State of the prompt caches",
            answer=_CACHE,
            query=("model",),
            errors=(UnknownModel,),
        )
        for path in ("cache", "cluster/cache")
    ),
    Route(
        method="DELETE",
        path="cache",
        handler=cache_endpoints.cache_clear,
        summary="Clear the prompt caches",
        answer=schemas.ClearResponse,
        query=("model",),
        errors=(UnknownModel, NodeDraining),
    ),
    *(
        Route(
            method="POST",
            path=path,
            handler=cache_endpoints.cache_warm,
            access="trusted",
            summary="Compute a system prompt and cache it, also when the client disconnects",
            body=WarmRequest,
            answer=schemas.WarmResponse,
            errors=(UnknownModel, *MODEL_UNAVAILABLE, ContextLengthExceeded, KvTooLarge),
        )
        for path in ("cache/warm", "cluster/cache/warm")
    ),
    # --- observation ----------------------------------------------------------------------
    Route(
        method="GET",
        path="metrics",
        handler=endpoints.metrics,
        summary="Metrics for Prometheus",
        answer=Text(("text/plain", endpoints.OPENMETRICS)),
    ),
    Route(
        method="GET",
        path="admin/events",
        handler=endpoints.events,
        summary="Recent events, the oldest first",
        answer=JsonKeys.of("events"),
        query=("after",),
    ),
    Route(
        method="GET",
        path="admin/events/stream",
        handler=endpoints.event_stream,
        summary="Recent events, then each event as it happens",
        answer=EVENTS,
        query=("after",),
    ),
    Route(
        method="GET",
        path="admin/watch",
        handler=stream.dashboard_stream,
        summary="What the dashboard shows: events, all figures once a second, and on request"
        " log lines and the table of requests",
        answer=EVENTS,
        query=("after", "logs", "logs_after", "requests"),
    ),
    Route(
        method="GET",
        path="admin/history",
        handler=stream.history,
        summary="The last hour, a sample every ten seconds",
        answer=JsonKeys.of("every samples"),
        query=("after",),
    ),
    Route(
        method="GET",
        path="admin/processes",
        handler=process_report.processes,
        summary="The node's processes: front, models, spares and helpers",
        answer=process_report.ProcessList,
    ),
    Route(
        method="GET",
        path="admin/logs",
        handler=endpoints.log_lines,
        summary="Last lines of the node's log, or the output of one model's processes",
        answer=JsonKeys.of("level lines"),
        query=("model", "after"),
        errors=(UnknownModel,),
    ),
    Route(
        method="GET",
        path="admin/logs/stream",
        handler=endpoints.log_stream,
        summary="The same lines, then each line as it is written",
        answer=EVENTS,
        query=("model", "after"),
        errors=(UnknownModel,),
    ),
    Route(
        method="PUT",
        path="admin/logs/level",
        handler=endpoints.log_level,
        summary="Set the lowest level of log lines that are shown, until it is set again",
        body=LogLevelRequest,
        answer=JsonKeys.of("level"),
    ),
    Route(
        method="GET",
        path="admin/requests",
        handler=request_endpoints.requests,
        summary="Generation requests that run or wait, and the last ones that have ended",
        answer=RequestRows,
    ),
    Route(
        method="GET",
        path="admin/config",
        handler=endpoints.config,
        summary="The configuration in effect, without secret values",
        answer=ConfigReport,
    ),
    # --- administration -------------------------------------------------------------------
    Route(
        method="POST",
        path="admin/reload",
        handler=endpoints.reload,
        summary="Reload the configuration",
        answer=Reloaded,
        errors=(CannotReload, NodeDraining),
    ),
    Route(
        method="POST",
        path="admin/requests/{id:.+}/cancel",
        handler=request_endpoints.cancel,
        summary="End a generation request; its client gets the error `cancelled_by_operator`",
        answer=schemas.Cancelled,
        errors=(RequestNotFound,),
    ),
    Route(
        method="POST",
        path="admin/models/{id:.+}/restart",
        handler=model_endpoints.restart,
        summary="Restart a model's process, also one that was given up",
        answer=schemas.Restarting,
        statuses=(202,),
        errors=(UnknownModel, MemoryFull, ModelTooLarge, NodeDraining),
    ),
    Route(
        method="POST",
        path="admin/models/{id:.+}/load",
        handler=model_endpoints.load,
        summary="Start a model's process, also one that was given up",
        answer=schemas.Loading,
        statuses=(202,),
        errors=(UnknownModel, MemoryFull, ModelTooLarge, NodeDraining),
    ),
    Route(
        method="POST",
        path="admin/models/{id:.+}/unload",
        handler=model_endpoints.unload,
        summary="End a model's process until a request needs the model",
        answer=schemas.Unloading,
        statuses=(202,),
        errors=(UnknownModel, ModelBusy, NodeDraining),
    ),
)
