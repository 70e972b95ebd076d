"""Thousands of bodies that are nearly right: each is answered, and none is the node's undoing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings

from mlx_worker.api.openapi import document
from mlx_worker.api.routes import ROUTES
from tests.fuzz.bodies import VALID, Body, mutated, nearly_valid, wrapped
from tests.fuzz.nodes import COUNT, GROWTH, IN_FULL, Standing, fuzzed_node
from tests.sse import events_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.processes import Answer, RunningNode

pytestmark = pytest.mark.fuzz


SAID: dict[str, Any] = json.loads(document(ROUTES))

METHODS = {
    path: method.upper()
    for path, methods in SAID["paths"].items()
    for method, operation in methods.items()
    if "requestBody" in operation
}

HALF = settings(
    max_examples=COUNT // 2,
    database=None,
    derandomize=not IN_FULL,
    # The node is the same for all, which is the point: one body must not spoil it for the next.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

TERMINAL = {
    "/chat/completions": "[DONE]",
    "/completions": "[DONE]",
    "/responses": ("response.completed", "response.incomplete"),
    "/messages": ("message_stop",),
}


@dataclass
class Fuzzed:
    """A node, and what it has answered."""

    node: RunningNode
    statuses: Counter[int] = field(default_factory=Counter)

    def ask(self, body: Body) -> Answer:
        answer = self.node.ask(
            body.path, body.data, method=METHODS[body.path], headers=body.headers
        )
        self.statuses[answer.status] += 1
        return answer


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    with fuzzed_node(tmp_path_factory.mktemp("node")) as node:
        for path, body in VALID.items():  # what is read and made once
            assert node.ask(path, body, method=METHODS[path]).status == 200, path
        fuzzed = Fuzzed(node)
        before = Standing.of(node)
        yield fuzzed
        grown = Standing.of(node).grown(before)
        by_status = ", ".join(
            f"{number}: {count:,}" for number, count in sorted(fuzzed.statuses.items())
        )
        print(  # noqa: T201  (what was seen is the point)
            f"\n{fuzzed.statuses.total():,} bodies ({by_status}); the same child, no restart;"
            f" the front takes {grown / 1e6:+.1f} MB"
        )
        assert grown < GROWTH


def judge(body: Body, answer: Answer) -> None:
    """It has a documented status that blames nobody but the body; what is said is whole."""
    responses = SAID["paths"][body.path][METHODS[body.path].lower()]["responses"]
    assert str(answer.status) in responses
    assert answer.status < 500, answer.body
    if answer.status == 200:
        judge_answer(body, answer)
        return
    schema = responses[str(answer.status)]["content"]["application/json"]["schema"]
    jsonschema_rs.validate(schema | {"components": SAID["components"]}, answer.json)
    assert answer.json["error"]["message"]


def judge_answer(body: Body, answer: Answer) -> None:
    if answer.headers["Content-Type"].startswith("application/json"):
        assert isinstance(answer.json, dict)
        return
    _, last = events_of(answer.body)[-1]
    assert (last if isinstance(last, str) else last["type"]) in TERMINAL[body.path], last


def judge_name(body: Body, answer: Answer) -> None:
    """A refusal names what was wrong: the field, or what nothing in it could be read for."""
    message = answer.json["error"]["message"]
    names = (
        body.odd,
        "not JSON",
        "nested too deeply",
        "maximum context length",
        "prompt is too long",
    )
    assert any(name in message for name in names), (body.odd, message)


@HALF
@given(body=nearly_valid())
def test_a_value_that_is_odd_is_honoured_or_refused_by_name(body: Body, fuzzed: Fuzzed) -> None:
    answer = fuzzed.ask(body)
    judge(body, answer)
    if answer.status != 200:
        judge_name(body, answer)


@HALF
@given(body=mutated())
def test_bytes_that_are_odd_are_read_or_refused(body: Body, fuzzed: Fuzzed) -> None:
    judge(body, fuzzed.ask(body))


def test_a_body_that_comes_in_no_proper_form_is_read_or_refused(fuzzed: Fuzzed) -> None:
    for body in wrapped():
        judge(body, fuzzed.ask(body))
