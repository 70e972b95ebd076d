"""Where nothing is served, the error says which path of this node does what was asked for."""

from __future__ import annotations

import pytest

from mlx_worker.api.middleware.not_found import ENDPOINTS, MISSING, REPLACEMENTS, suggestion_for
from mlx_worker.api.middleware.paths import plain_path
from mlx_worker.api.routes import ROUTES

SERVED = {(route.method, "/" + route.path.replace(":.+", "")) for route in ROUTES}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_endpoint_that_is_named_is_served(endpoint: str) -> None:
    method, path = endpoint.split()
    assert (method, plain_path(path)) in SERVED


def test_a_path_that_is_served_is_not_called_another_servers() -> None:
    served = {path for _, path in SERVED}
    assert not served & REPLACEMENTS.keys()
    assert set(REPLACEMENTS.values()) <= set(ENDPOINTS)
    beginnings = [beginning for group in MISSING.values() for beginning in group]
    assert not [path for path in REPLACEMENTS if path.startswith(tuple(beginnings))]


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        # Ollama
        ("/api/tags", "GET /v1/models"),
        ("/api/chat", "POST /v1/chat/completions"),
        ("/api/generate", "POST /v1/completions"),
        ("/api/show", "GET /v1/models/{id}"),
        ("/api/ps", "GET /health"),
        ("/api/version", "GET /health"),
        # LM Studio
        ("/api/v0/models", "GET /v1/models"),
        ("/api/v0/models/m", "GET /v1/models/{id}"),
        ("/api/v0/chat/completions", "POST /v1/chat/completions"),
        ("/api/v0/completions", "POST /v1/completions"),
        ("/api/v1/chat", "POST /v1/chat/completions"),
        ("/api/v1/models", "GET /v1/models"),
        # llama.cpp, TGI, vLLM, SGLang
        ("/completion", "POST /v1/completions"),
        ("/props", "GET /v1/models"),
        ("/slots", "GET /health"),
        ("/generate", "POST /v1/completions"),
        ("/generate_stream", "POST /v1/completions"),
        ("/model_info", "GET /v1/models"),
        ("/get_model_info", "GET /v1/models"),
        ("/server_info", "GET /health"),
        # a base URL with too much or too little in it
        ("/openai/v1/chat/completions", "POST /v1/chat/completions"),
        ("/openai/deployments/gpt-4o/chat/completions", "POST /v1/chat/completions"),
        ("/engines/m/completions", "POST /v1/completions"),
        ("/anthropic/v1/messages", "POST /v1/messages"),
        ("/anthropic/v1/messages/count_tokens", "POST /v1/messages/count_tokens"),
        ("/v1/chat", "POST /v1/chat/completions"),
        ("/v1/chat/completion", "POST /v1/chat/completions"),
        ("/v1/chat//completions", "POST /v1/chat/completions"),
        ("/v1/model", "GET /v1/models"),
        ("/v1/response", "POST /v1/responses"),
        ("/healthz", "GET /health/live"),
    ],
)
def test_suggestion_for_path_of_another_server_names_the_endpoint(path: str, endpoint: str) -> None:
    for written in (path, f"{path}/", f"/v1{path}"):
        assert suggestion_for(written) == f"this node has {endpoint}"


@pytest.mark.parametrize(
    ("path", "thing"),
    [
        ("/v1/embeddings", "embeddings"),
        ("/api/embed", "embeddings"),
        ("/v1/audio/speech", "sound"),
        ("/v1/images/generations", "pictures"),
        ("/v1/moderations", "moderation"),
        ("/v1/files", "files"),
        ("/v1/messages/batches", "batches"),
        ("/v1/responses/resp_1", "stored answers"),
        ("/api/pull", "mlx-worker pull"),
    ],
)
def test_suggestion_for_missing_feature_names_the_feature(path: str, thing: str) -> None:
    said = suggestion_for(path)
    assert said.startswith("this node has no ")
    assert thing in said


@pytest.mark.parametrize("path", ["/nowhere", "/v2", "/", "/" + "x" * 8000, "/admin/model"])
def test_suggestion_for_any_other_path_names_v1(path: str) -> None:
    assert suggestion_for(path) == (
        "this node's API is under /v1, and GET /openapi.json lists all paths"
    )
