"""schemathesis against openapi.json: no status that is not in it, no answer of another shape.

Of what it makes, most is refused for one field; that field is left out and the rest asked again,
until the model has had it. So a case is several requests.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mlx_worker.api.openapi import document
from mlx_worker.api.routes import ROUTES
from tests.fuzz.nodes import COUNT, IN_FULL, MODEL, Standing, fuzzed_node
from tests.processes import DEADLINE, eventually
from tests.request_bodies import BODIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis.core.transport import Response

    from tests.processes import RunningNode

pytestmark = pytest.mark.fuzz


# A refusal that is documented may be a 5xx (503: the model is away), so the status is checked
# against the document, and beyond that never may be the node's own fault.
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

CASES = max(4, COUNT // 50)
"""That the document allows, of an operation; and as many that it forbids."""

CHOSEN = settings(
    max_examples=CASES,
    database=None,
    derandomize=not IN_FULL,
    suppress_health_check=[*HealthCheck],  # some operations have a single case, some large ones
)

STIRRING = ("/admin/models/", "/admin/reload")

ANSWERS: Counter[int] = Counter()

SCHEMA = schemathesis.openapi.from_dict(json.loads(document(ROUTES)))


@SCHEMA.hook  # type: ignore[untyped-decorator]
def map_path_parameters(
    _context: schemathesis.HookContext, path_parameters: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Every other name is that of a model: by chance none would be."""
    if path_parameters and len(str(path_parameters.get("id"))) % 2:
        return path_parameters | {"id": MODEL}
    return path_parameters


def operations() -> list[Any]:
    """All but the streams of events and of log lines, which have no end to wait for.

    Those come last that end the process which others would ask.
    """
    results: list[Any] = list(SCHEMA.get_all_operations())
    found = [result.ok() for result in results]
    ending = [item for item in found if not item.path.endswith(("/stream", "/watch"))]
    return sorted(ending, key=lambda item: item.path.startswith(STIRRING))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with fuzzed_node(tmp_path_factory.mktemp("node")) as running:
        yield running
    by_status = ", ".join(f"{status}: {count:,}" for status, count in sorted(ANSWERS.items()))
    print(f"\nschemathesis: {ANSWERS.total():,} requests ({by_status})")  # noqa: T201


def ask(case: schemathesis.Case[Any], node: RunningNode) -> Response:
    response = case.call_and_validate(base_url=node.url, checks=CHECKS, timeout=DEADLINE)
    ANSWERS[response.status_code] += 1
    assert response.status_code not in (500, 504)
    return response


def without_what_was_refused(case: schemathesis.Case[Any], response: Response) -> bool:
    """Leave the field out that the error names; False where the endpoint cannot do without."""
    if response.status_code != 400 or not isinstance(case.body, dict):
        return False
    field = re.match(r"\w+", response.json()["error"]["message"])
    if field is None or field[0] not in case.body or field[0] in BODIES[case.operation.path]:
        return False
    case.body = {name: value for name, value in case.body.items() if name != field[0]}
    return True


@pytest.mark.parametrize("operation", operations(), ids=lambda item: item.label)
def test_every_answer_is_documented(operation: Any, node: RunningNode) -> None:
    stirs = operation.path.startswith(STIRRING)

    @CHOSEN
    @given(case=operation.as_strategy(GenerationMode.POSITIVE))
    def allowed(case: schemathesis.Case[Any]) -> None:
        while without_what_was_refused(case, ask(case, node)):
            pass

    @CHOSEN
    @given(case=operation.as_strategy(GenerationMode.NEGATIVE))
    def forbidden(case: schemathesis.Case[Any]) -> None:
        ask(case, node)

    before = Standing.of(node)
    allowed()
    with contextlib.suppress(Unsatisfiable):  # of some nothing can be forbidden
        forbidden()
    if not stirs:
        Standing.of(node).grown(before)


def test_after_all_that_the_node_serves_as_before(node: RunningNode) -> None:
    def whole() -> bool:
        return bool(node.ask("/health/ready").status == 200)

    eventually(whole)
    assert node.ask("/v1/chat/completions", BODIES["/chat/completions"]).status == 200
    assert ANSWERS[200] > CASES * len(BODIES) / 3, "many a case comes as far as the model"
