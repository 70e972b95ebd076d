"""A refused request's body is given back at once, not when the collector comes by."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

from aiohttp import web

from mlx_worker.api.middleware.errors import error_middleware
from mlx_worker.errors import InvalidRequest

if TYPE_CHECKING:
    from pytest_aiohttp.plugin import AiohttpClient


class Body:
    """As much as a request may send."""


def refusing(seen: list[weakref.ref[Body]]) -> web.Application:
    async def handler(_: web.Request) -> web.Response:
        body = Body()
        seen.append(weakref.ref(body))
        raise InvalidRequest("no")

    app = web.Application(middlewares=[error_middleware])
    app.router.add_get("/", handler)
    return app


async def test_what_a_refused_request_sent_is_gone_with_its_answer(
    aiohttp_client: AiohttpClient,
) -> None:
    seen: list[weakref.ref[Body]] = []
    client = await aiohttp_client(refusing(seen))
    gc.disable()
    try:
        async with client.get("/") as response:
            assert response.status == 400
            await response.read()
        (body,) = seen
        assert body() is None
    finally:
        gc.enable()
