"""schemathesis against openapi.json: no status that is not in it, no answer of another shape.

Of what it makes, most is refused for one field; that field is left out and the rest asked again,
until the model has had it. So a case is several requests.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mlx_worker.api.openapi import document
from mlx_worker.api.routes import ROUTES
from tests.asked import BODIES
from tests.fuzz.nodes import COUNT, IN_FULL, MODEL, Standing, fuzzed_node
from tests.processes import DEADLINE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis.core.transport import Response

    from tests.processes import RunningNode

# A refusal that is documented may be a 5xx (503: the model is away), so the status is checked
# against the document, and beyond that never may be the node's own fault.
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

CASES = max(4, COUNT // 50)
"""An operation."""


def config() -> schemathesis.Config:
    made = schemathesis.Config()
    ours = made.projects.default
    ours.generation.max_examples = CASES
    ours.generation.deterministic = not IN_FULL
    ours.generation.database = "none"
    ours.phases.coverage.enabled = IN_FULL
    return made


SCHEMA = schemathesis.openapi.from_dict(json.loads(document(ROUTES)), config=config())
ADMIN = "^/admin/"
CALM = SCHEMA.exclude(path_regex=ADMIN)
STIRRING = SCHEMA.include(path_regex=ADMIN)
"""These end the child that others would ask."""

ANSWERS: Counter[int] = Counter()


@SCHEMA.hook
def map_path_parameters(
    _context: schemathesis.HookContext, path_parameters: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Every other name is that of a model: by chance none would be."""
    if path_parameters and len(str(path_parameters.get("id"))) % 2:
        return path_parameters | {"id": MODEL}
    return path_parameters


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


@CALM.parametrize()
def test_every_answer_is_documented(case: schemathesis.Case[Any], node: RunningNode) -> None:
    before = Standing.of(node)
    while without_what_was_refused(case, ask(case, node)):
        pass
    Standing.of(node).grown(before)


@STIRRING.parametrize()
def test_every_answer_of_an_administrator_is_documented(
    case: schemathesis.Case[Any], node: RunningNode
) -> None:
    ask(case, node)


def test_after_all_that_the_node_serves_as_before(node: RunningNode) -> None:
    def whole() -> bool:
        return bool(node.ask("/health/ready").status == 200)

    eventually(whole)
    assert node.ask("/v1/chat/completions", BODIES["/chat/completions"]).status == 200
    assert ANSWERS[200] > CASES * len(BODIES) / 3, "many a case comes as far as the model"
