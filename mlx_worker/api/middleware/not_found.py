"""Name the right path in the error for a path that does not exist.

Clients are set up for another server, or their base URL has too much or too little in it. Their
users read the error, so the error names the path of this node that does the same.

[front]
"""

from __future__ import annotations

import difflib
from typing import Final

from mlx_worker.api.middleware.paths import plain_path

CHAT: Final = "POST /v1/chat/completions"
COMPLETE: Final = "POST /v1/completions"
RESPOND: Final = "POST /v1/responses"
MESSAGE: Final = "POST /v1/messages"
COUNT: Final = "POST /v1/messages/count_tokens"
MODELS: Final = "GET /v1/models"
MODEL: Final = "GET /v1/models/{id}"
HEALTH: Final = "GET /health"
LIVE: Final = "GET /health/live"
READY: Final = "GET /health/ready"
CLUSTER: Final = "GET /v1/cluster/health"
METRICS: Final = "GET /metrics"
DOCUMENT: Final = "GET /openapi.json"
CLEAR: Final = "DELETE /cache"

ENDPOINTS: Final = (
    *(CHAT, COMPLETE, RESPOND, MESSAGE, COUNT, MODELS, MODEL, HEALTH, LIVE, READY, CLUSTER),
    *(METRICS, DOCUMENT, CLEAR),
)
"""Endpoints that errors name; a test checks that they exist."""

REPLACEMENTS: Final = {
    # Ollama
    "/api/chat": CHAT,
    "/api/generate": COMPLETE,
    "/api/tags": MODELS,
    "/api/show": MODEL,
    "/api/ps": HEALTH,
    "/api/version": HEALTH,
    # LM Studio
    "/api/v1/chat": CHAT,
    # llama.cpp
    "/completion": COMPLETE,
    "/infill": COMPLETE,
    "/props": MODELS,
    "/slots": HEALTH,
    # TGI
    "/generate": COMPLETE,
    "/generate_stream": COMPLETE,
    "/info": MODELS,
    "/chat_tokenize": COUNT,
    # vLLM
    "/ping": LIVE,
    "/load": METRICS,
    "/invocations": CHAT,
    "/inference/v1/generate": COMPLETE,
    # SGLang
    "/model_info": MODELS,
    "/get_model_info": MODELS,
    "/server_info": HEALTH,
    "/get_server_info": HEALTH,
    "/health_generate": READY,
    "/flush_cache": CLEAR,
    # KoboldCpp
    "/api/v1/generate": COMPLETE,
    "/api/latest/generate": COMPLETE,
    "/api/extra/generate/stream": COMPLETE,
    "/api/v1/model": MODELS,
    "/api/extra/version": HEALTH,
    "/api/extra/tokencount": COUNT,
    # OpenAI's and Anthropic's older paths, and halves of paths
    "/chat": CHAT,
    "/complete": MESSAGE,
    "/count_tokens": COUNT,
    "/engines": MODELS,
    # probes
    "/healthz": LIVE,
    "/livez": LIVE,
    "/live": LIVE,
    "/readyz": READY,
    "/ready": READY,
    "/docs": DOCUMENT,
    "/redoc": DOCUMENT,
    "/swagger.json": DOCUMENT,
}
"""The endpoint to use instead, by path without any /v1 in front."""

MISSING: Final = {
    "embeddings, and ranks nothing": (
        *("/embeddings", "/embedding", "/api/embed", "/api/embeddings", "/pooling", "/score"),
        *("/rerank", "/reranking", "/classify"),
    ),
    "pictures and no sound": ("/images", "/audio", "/realtime", "/videos"),
    "moderation": ("/moderations",),
    "files and no batches": (
        *("/files", "/uploads", "/batches", "/messages/batches", "/vector_stores"),
    ),
    "assistants: the conversation comes with every request": (
        *("/assistants", "/threads", "/conversations"),
    ),
    "stored answers: the conversation comes with every request": ("/responses/",),
    "training": ("/fine_tuning", "/lora-adapters", "/load_lora_adapter"),
    "models to add or to remove over HTTP: see the command `mlx-worker pull`": (
        *("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs"),
    ),
}
"""Features that this node does not have, by what their paths begin with."""

_MAX_LENGTH: Final = 64
"""Characters of a path that is compared with others: no server has a longer path."""

_MIN_SIMILARITY: Final = 0.8

_PATHS: Final = {
    plain_path(endpoint.partition(" ")[2]): endpoint
    for endpoint in ENDPOINTS
    if "{" not in endpoint
}


def suggestion_for(path: str) -> str:
    """Return a sentence that names the path to use instead of one that does not exist."""
    plain = plain_path(path)
    if endpoint := _replacement_for(plain):
        return f"this node has {endpoint}"
    for thing, beginnings in MISSING.items():
        if plain.startswith(beginnings):
            return f"this node has no {thing}"
    return f"this node's API is under /v1, and {DOCUMENT} lists all paths"


def _replacement_for(plain: str) -> str | None:
    if (endpoint := REPLACEMENTS.get(plain)) is not None:
        return endpoint
    # A base URL with more in front, as /api/v0, /openai/deployments/NAME or /openai/v1.
    for known, endpoint in _PATHS.items():
        if plain.endswith(known):
            return endpoint
    if "/models/" in plain and not plain.startswith("/admin/"):
        return MODEL
    close = (
        difflib.get_close_matches(plain, _PATHS, 1, _MIN_SIMILARITY)
        if len(plain) <= _MAX_LENGTH
        else []
    )
    return _PATHS[close[0]] if close else None
