"""Hold every error that a test meets against what openapi.json says of its endpoint.

Each answer that a test of this folder reads goes through `check_error`: an error that an endpoint
answers with and that its route does not name fails the test which met it.
"""

from __future__ import annotations

import json
import re
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from mlx_worker.api.middleware.connections import NotHttp
from mlx_worker.api.middleware.errors import NoSuchPath, WrongMethod
from mlx_worker.api.route import ANY_REQUEST
from mlx_worker.api.routes import ROUTES
from mlx_worker.errors import TooManyConnections, WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_ENDPOINTS_OWN: Final[set[type[WorkerError]]] = {
    NoSuchPath,
    WrongMethod,
    NotHttp,
    TooManyConnections,
}
"""What is answered before an endpoint is found."""

OF_ANY_PATH: Final = {kind.code for kind in (*ANY_REQUEST, *NO_ENDPOINTS_OWN)}
"""What the files of the dashboard are refused with too, which are of no API."""


def check_error(method: str, path: str, status: int, body: bytes) -> None:
    """Fail if an answer has the code of an error that its endpoint does not document."""
    if status >= HTTPStatus.BAD_REQUEST or b'"error"' in body:
        met = set(_codes(body)) - OF_ANY_PATH
        assert met <= codes_of(method, path.partition("?")[0]), f"{method} {path}: {met}"


def _codes(body: bytes) -> Iterator[str]:
    """Yield the codes of an error body, or of the errors in a stream of events."""
    for line in (body, *re.findall(rb"^data: (\{.*)$", body, re.MULTILINE)):
        try:
            error = json.loads(line)["error"]
            yield error["code"]
        except (ValueError, KeyError, TypeError):
            continue


@cache
def codes_of(method: str, path: str) -> set[str]:
    """Return the codes that the routes of a path document; all codes are in OpenAI's shape."""
    bare = re.sub(r"^/*(v1/+)*", "", re.sub("/+", "/", path)).rstrip("/")
    return {
        kind.code
        for route in ROUTES
        if method in route.methods and _pattern(route.path).fullmatch(bare)
        for kind in route.all_errors
    }


@cache
def _pattern(path: str) -> re.Pattern[str]:
    escaped = path.replace(".json", r"\.json")
    limited = re.sub(r"\{\w+:([^}]*)\}", r"\1", escaped)
    return re.compile(re.sub(r"\{\w+\}", "[^/]+", limited))
