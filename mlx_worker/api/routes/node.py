"""List the endpoints about the node, its models and its prompt caches.

[front]
"""

from __future__ import annotations

from mlx_worker.api import openapi
from mlx_worker.api.admin import (
    anthropic_models,
    cache_endpoints,
    health_endpoints,
    model_endpoints,
    schemas,
)
from mlx_worker.api.dialects.native.cache_warm import WarmRequest
from mlx_worker.api.route import (
    MODEL_UNAVAILABLE,
    JsonKeys,
    Route,
)
from mlx_worker.errors import (
    ContextLengthExceeded,
    KvTooLarge,
    ModelLoading,
    NodeDraining,
    Unavailable,
    UnknownModel,
)

_HEALTH = JsonKeys.of(
    "status reason version uptime addresses health cache metrics standby memory models"
)
_CACHE = JsonKeys.of("tokens systemPromptHash lastUpdated hitRate disk")

NODE_ROUTES = (
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
        path="version",
        handler=model_endpoints.version,
        access="trusted",
        summary="The version of mlx-worker, where vLLM has its own; routers look here",
        answer=schemas.Version,
    ),
    Route(
        method="GET",
        path="openapi.json",
        handler=openapi.openapi_document,
        summary="All endpoints and their types, as OpenAPI 3.1",
        answer=JsonKeys.of("openapi info servers security paths components"),
    ),
    *(
        Route(
            method="GET",
            path=path,
            handler=cache_endpoints.cache_state,
            access="trusted",
            summary="State of the prompt caches: of the node with all its models, or of one model",
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
        summary="Clear the prompt caches of all models, or of one, in memory and on disk",
        answer=schemas.ClearResponse,
        query=("model",),
        errors=(UnknownModel, NodeDraining, ModelLoading),
    ),
    Route(
        method="GET",
        path="cache/disk",
        handler=cache_endpoints.cache_on_disk,
        summary="KV on disk, also of models that are not loaded",
        answer=schemas.DiskContents,
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
)
