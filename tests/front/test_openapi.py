"""openapi.json is true: what is served is in it and nothing else, answers are as it says."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from mlx_worker import __version__, errors
from mlx_worker.api.dialects.errors import anthropic_status
from mlx_worker.api.openapi import document
from mlx_worker.api.parsing.parser import LARGE_BODY, PARSER
from mlx_worker.api.routes import ROUTES
from mlx_worker.errors import CHILD_CODES, WorkerError
from tests.front.documented import NO_ENDPOINTS_OWN, codes_of
from tests.request_bodies import BODIES
from tests.rounds import rounds
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from tests.front.asking import Front, Serve

SAID: dict[str, Any] = json.loads(document(ROUTES))

OPERATIONS = {
    (method.upper(), path): said
    for path, methods in SAID["paths"].items()
    for method, said in methods.items()
}

TAKING = [operation for operation, said in OPERATIONS.items() if "requestBody" in said]

HEADS = {operation for operation in OPERATIONS if operation[0] == "HEAD"}
"""Answers without a body; that they are those of GET is tested beside the paths."""

TEXTS = {
    operation
    for operation in OPERATIONS
    if operation[1].endswith(("/metrics", "/stream", "/watch"))
} - HEADS
"""Answers that are no JSON; those of the streams have no end."""

ELSEWHERE = {
    ("POST", "/admin/reload"),
    ("POST", "/admin/requests/{id}/cancel"),
    ("GET", "/responses/{id}"),
    ("POST", "/responses/{id}/cancel"),
}
"""Tested elsewhere: these need a configuration file, a request that runs, or a response."""

NOT_OVER_HTTP = {
    errors.ServiceManagerError,
    errors.ProtocolViolation,  # ends the child; its requests go on in the next
    errors.CacheError,  # a warm-up that failed is an internal error, with this as its message
    errors.InvalidSetting,
    errors.ModelNotFoundError,
    errors.ConfigError,
    errors.HealthError,
    errors.NothingServed,
    errors.AddressInUse,
    errors.NodeUnreachable,
    errors.BadModelFolder,
    errors.UnservableModel,
    errors.SourceUnavailable,
    errors.BrokenDownload,
    errors.StorageError,
    errors.BenchmarkError,
    errors.NotInTime,
    errors.ModelInUse,
}
"""For commands, the Python modules and the log: no handler raises these."""

OF_THE_PAGE = {"/{v1}{end}", "/{v1}page/{name}{end}"}
"""What a browser loads is of no API."""

WRONG: list[Any] = [None, True, -1, 1.5, "\x00", [], {}, [[None]], {"a": [None]}]


def family(kind: type[WorkerError]) -> set[type[WorkerError]]:
    return {kind, *(descendant for sub in kind.__subclasses__() for descendant in family(sub))}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """With what it refers to."""
    return schema | {"components": SAID["components"]}


def answer_schema(operation: dict[str, Any], status: int) -> dict[str, Any]:
    schema: dict[str, Any] = operation["responses"][str(status)]["content"]["application/json"][
        "schema"
    ]
    return schema


async def ask(
    front: Front, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any]:
    answer = await front.ask(path.replace("{id}", "m"), body, method=method, **headers)
    return answer.status, answer.json


async def test_the_router_serves_what_is_in_the_document_and_nothing_else(serve: Serve) -> None:
    front = await serve(wait=False)
    router = front.client.server.app.router  # type: ignore[attr-defined]
    served = set()
    for route in router.routes():
        path = route.resource.canonical
        assert path.startswith("/{v1}"), "any run of /v1 may stand in front"
        if path not in OF_THE_PAGE:
            served.add((route.method, "/" + path.removeprefix("/{v1}").removesuffix("{end}")))
    assert served == OPERATIONS.keys()
    assert len(served) == sum(len(route.methods) for route in ROUTES)


async def test_it_is_served_as_json_with_the_version_that_runs(serve: Serve) -> None:
    status, said = await ask(await serve(wait=False), "GET", "/v1/openapi.json")
    assert status == 200
    assert said == SAID
    assert (said["openapi"], said["info"]["version"]) == ("3.1.0", __version__)


def test_head_is_documented_wherever_get_is_and_without_a_body() -> None:
    assert {path for _, path in HEADS} == {path for method, path in OPERATIONS if method == "GET"}
    for method, path in HEADS:
        told, got = OPERATIONS[method, path], OPERATIONS["GET", path]
        assert told["responses"].keys() == got["responses"].keys()
        assert all("content" not in response for response in told["responses"].values())
        assert all("content" in response for response in got["responses"].values())


def test_operations_have_ids_of_their_own() -> None:
    ids = [said["operationId"] for said in OPERATIONS.values()]
    assert len({*ids}) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9_]+", id_) for id_ in ids)


def test_every_error_that_a_caller_may_meet_is_documented_with_its_status() -> None:
    documented = {kind for route in ROUTES for kind in route.all_errors}
    ours = {kind for kind in family(WorkerError) if kind.__module__.startswith("mlx_worker")}
    assert documented | NOT_OVER_HTTP | NO_ENDPOINTS_OWN == ours
    assert not documented & NOT_OVER_HTTP
    for kind in NO_ENDPOINTS_OWN:
        assert f"{kind.status} (`{kind.code}`" in SAID["info"]["description"]


@pytest.mark.process
async def test_a_large_body_whose_parser_ended_is_documented(serve: Serve) -> None:
    front = await serve(wait=False)
    parser = front.client.server.app[PARSER]  # type: ignore[attr-defined]
    parser._command = ("false",)
    kind = errors.Unavailable
    for method, path in TAKING:
        status, _ = await ask(front, method, path, b" " * (LARGE_BODY + 1))
        said = OPERATIONS[method, path]["responses"]
        assert status == (anthropic_status(kind) if "messages" in path else kind.status)
        assert "`unavailable`" in said[str(status)]["description"]


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/responses", "/messages"])
def test_every_error_of_a_generation_that_a_child_may_send_is_documented(path: str) -> None:
    assert CHILD_CODES - {errors.CacheError.code} <= codes_of("POST", path)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_status_means_an_answer_or_a_refusal_and_never_both(route: Any) -> None:
    assert not {*route.statuses} & {kind.status for kind in route.all_errors}


def test_anthropics_endpoints_document_no_422() -> None:
    responses = OPERATIONS["POST", "/messages"]["responses"]
    assert "422" not in responses
    assert "missing_field" in responses["400"]["description"]


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS.keys() - TEXTS - HEADS - ELSEWHERE))
async def test_an_answer_is_as_documented_and_has_no_key_beside(
    serve: Serve, method: str, path: str
) -> None:
    front = await serve()
    status, body = await ask(front, method, path, BODIES.get(path))
    assert status in (200, 202)
    schema = answer_schema(OPERATIONS[method, path], status)
    jsonschema_rs.validate(resolved(schema), body)
    if "required" in schema:
        assert set(body) == set(schema["required"]) | ({"models"} if "cache" in path else set())


@pytest.mark.parametrize(
    ("path", "name"), [("/models", "AnthropicModelList"), ("/models/{id}", "AnthropicModel")]
)
async def test_an_answer_to_anthropics_clients_is_as_documented(
    serve: Serve, path: str, name: str
) -> None:
    front = await serve()
    operation = OPERATIONS["GET", path]
    assert "anthropic-version" in {parameter["name"] for parameter in operation["parameters"]}
    status, body = await ask(front, "GET", path, anthropic_version="2023-06-01")
    reference = {"$ref": f"#/components/schemas/{name}"}
    assert reference in answer_schema(operation, status)["anyOf"]
    jsonschema_rs.validate(resolved(reference), body)
    assert set(body) == set(SAID["components"]["schemas"][name]["properties"])


@pytest.mark.parametrize(("method", "path"), sorted(TEXTS))
async def test_an_answer_that_is_no_json_is_of_a_documented_type(
    serve: Serve, method: str, path: str
) -> None:
    front = await serve(wait=False)
    response = await soon(front.open(path, method=method))
    assert response.content_type in OPERATIONS[method, path]["responses"]["200"]["content"]
    response.close()


async def test_metrics_are_of_the_other_documented_type_where_that_is_asked_for(
    serve: Serve,
) -> None:
    front = await serve(wait=False)
    media = "application/openmetrics-text"
    response = await soon(front.open("/metrics", Accept=media))
    assert response.content_type == media
    assert media in OPERATIONS["GET", "/metrics"]["responses"]["200"]["content"]


def test_there_is_a_body_for_every_endpoint_that_takes_one() -> None:
    assert {path for _, path in TAKING} == BODIES.keys()


@pytest.mark.parametrize(("method", "path"), TAKING)
async def test_what_the_document_refuses_in_a_field_is_refused_with_its_name(
    serve: Serve, method: str, path: str
) -> None:
    """The type that is documented is the type that parses."""
    front = await serve()
    (content,) = OPERATIONS[method, path]["requestBody"]["content"].values()
    body = SAID["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    refused = 0
    for field, schema in body["properties"].items():
        validator = jsonschema_rs.validator_for(resolved(schema))
        wrong_values = [value for value in WRONG if not validator.is_valid(value)]
        for wrong in wrong_values[:: rounds(3, 1, 1)]:
            status, answer = await ask(front, method, path, BODIES[path] | {field: wrong})
            assert status in (400, 422)
            assert answer["error"]["message"].startswith(field)
            refused += 1
    assert refused * rounds(3, 1, 1) > 2 * len(body["properties"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        operation for operation in TAKING if not operation[1].endswith(("warm", "tokenize"))
    ],  # there, either of two fields is required
)
async def test_a_field_that_the_document_requires_is_required(
    serve: Serve, method: str, path: str
) -> None:
    front = await serve(wait=False)
    (content,) = OPERATIONS[method, path]["requestBody"]["content"].values()
    body = SAID["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    (field,) = body["required"]
    status, answer = await ask(front, method, path, {})
    assert status == (400 if path.startswith("/messages") else 422)
    assert field in answer["error"]["message"]
