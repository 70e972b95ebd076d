"""HEAD is answered wherever GET is: the same status and headers, and no body (RFC 9110 9.3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlx_worker.api.routes import ROUTES
from tests.supervisor_harness import soon

if TYPE_CHECKING:
    from tests.front.asking import Serve

READ = [route.path.replace("{id:.+}", "m") for route in ROUTES if route.method == "GET"]
STREAMS = [path for path in READ if path.endswith(("/stream", "/watch"))]
OF_THE_MOMENT = {"Date", "X-Request-Id"}
"""Headers that differ from one answer to the next."""

STEADY = ("models", "models/m", "health/live", "health/ready", "openapi.json", "", "page/main.js")
"""Paths whose answers are as long each time."""


@pytest.mark.parametrize(
    "path", [path for path in READ if path not in STREAMS] + ["", "page/main.js"]
)
async def test_head_of_a_path_has_the_status_of_get_and_no_body(serve: Serve, path: str) -> None:
    front = await serve()
    got = await front.ask(f"/v1/{path}")
    told = await front.ask(f"/v1/{path}", method="HEAD")
    assert (told.status, told.body) == (got.status, b"")
    assert told.headers["Content-Type"] == got.headers["Content-Type"]
    assert int(told.headers["Content-Length"]) > 0
    if path in STEADY:
        same = [
            {key: value for key, value in answer.headers.items() if key not in OF_THE_MOMENT}
            for answer in (told, got)
        ]
        assert same[0] == same[1]
        assert int(told.headers["Content-Length"]) == len(got.body)


@pytest.mark.parametrize("path", STREAMS)
async def test_head_of_a_stream_ends_after_its_headers(serve: Serve, path: str) -> None:
    front = await serve(wait=False)
    told = await front.ask(f"/{path}", method="HEAD")
    assert (told.status, told.body) == (200, b"")
    response = await soon(front.open(f"/{path}"))
    assert told.headers["Content-Type"] == response.headers["Content-Type"]
    response.close()


async def test_head_of_the_page_that_is_known_is_a_304(serve: Serve) -> None:
    front = await serve(wait=False)
    etag = (await front.ask("/", method="HEAD")).headers["ETag"]
    assert (await front.ask("/", method="HEAD", If_None_Match=etag)).status == 304


@pytest.mark.parametrize(
    ("path", "status", "allow"),
    [
        ("/v1/chat/completions", 405, "POST"),
        ("/v1/messages", 405, "POST"),
        ("/admin/reload", 405, "POST"),
        ("/admin/logs/level", 405, "PUT"),
        ("/v1/models/none", 404, None),
        ("/nowhere", 404, None),
    ],
)
async def test_head_of_what_is_refused_has_no_body(
    serve: Serve, path: str, status: int, allow: str | None
) -> None:
    front = await serve(wait=False)
    told = await front.ask(path, method="HEAD")
    assert (told.status, told.body) == (status, b"")
    assert told.headers.get("Allow") == allow
    assert int(told.headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/health", {"GET", "HEAD"}),
        ("/v1/models", {"GET", "HEAD"}),
        ("/cache", {"GET", "HEAD", "DELETE"}),
        ("/admin/events/stream", {"GET", "HEAD"}),
        ("/", {"GET", "HEAD"}),
    ],
)
async def test_allow_of_a_405_names_head_beside_get(
    serve: Serve, path: str, methods: set[str]
) -> None:
    answer = await (await serve(wait=False)).ask(path, method="PATCH")
    assert answer.status == 405
    assert {method.strip() for method in answer.headers["Allow"].split(",")} == methods


async def test_options_is_answered_as_any_method_that_is_not_there(serve: Serve) -> None:
    answer = await (await serve(wait=False)).ask("/v1/chat/completions", method="OPTIONS")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
