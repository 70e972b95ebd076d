"""Paths: any run of /v1, paths that do not exist, endpoints that answer at once."""

import pytest

from mlx_worker.supervisor.process.restart_policy import RestartPolicy
from tests.front.asking import PROMPT, Front, Serve, asked, model
from tests.server.asking import ask
from tests.supervisor_harness import soon


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/v1", "/v1/v1/v1"])
async def test_any_run_of_v1_in_front_of_any_path_is_the_same_path(
    serve: Serve, prefix: str
) -> None:
    front = await serve()
    answers = {
        (method, path): (await front.ask(prefix + path, body, method=method)).status
        for method, path, body in (
            ("GET", "/models", None),
            ("GET", "/models/m", None),
            ("GET", "/health", None),
            ("GET", "/health/live", None),
            ("GET", "/health/ready", None),
            ("GET", "/cluster/health", None),
            ("GET", "/cache", None),
            ("GET", "/cluster/cache", None),
            ("POST", "/cache/warm", {"system_prompt": PROMPT}),
            ("POST", "/cluster/cache/warm", {"systemPrompt": PROMPT}),
            ("POST", "/chat/completions", asked("hello")),
            ("DELETE", "/cache", None),
        )
    }
    assert {key: status for key, status in answers.items() if status != 200} == {}


@pytest.mark.parametrize(
    ("before", "after"),
    [("//v1/", ""), ("/v1//", ""), ("/v1/", "/"), ("/v1/v1//", ""), ("//", "/"), ("/v1//", "//")],
)
async def test_slashes_doubled_about_v1_or_put_at_the_end_change_nothing(
    serve: Serve, before: str, after: str
) -> None:
    url = url_of(await serve(models=(model("org/m", default=True),)))
    for path in ("models", "models/org/m", "health/ready", "admin/events"):
        answer = await ask(url, before + path + after)
        assert answer.status == 200, path
    assert (await ask(url, f"{before}models/org/m{after}")).json["id"] == "org/m"
    answer = await ask(url, before + "chat/completions" + after, asked("hello"))
    assert answer.text == "hello"
    refused = await ask(url, before + "messages" + after, {"messages": 5})
    assert refused.json["type"] == "error", "in Anthropic's words"


@pytest.mark.parametrize("path", ["//admin/events", "/v1//admin/events", "/admin/events/", "//"])
async def test_slashes_do_not_hide_from_browsers_what_only_operators_read(
    serve: Serve, path: str
) -> None:
    """A page of another site whose name points here reads nothing of it."""
    url = url_of(await serve(wait=False))
    assert (await ask(url, path)).status == 200
    assert (await ask(url, path, headers={"Host": "evil.example"})).status == 421


def url_of(front: Front) -> str:
    """Return the base URL: the front's own client takes a path with two slashes for a host."""
    return str(front.client.make_url("/")).rstrip("/")


@pytest.mark.parametrize("path", ["/v1", "/v2/models", "/v1/v1", "/v1models", "/nowhere"])
async def test_paths_unknown_path_is_a_404_in_the_shape_of_errors(serve: Serve, path: str) -> None:
    answer = await (await serve(wait=False)).ask(path)
    assert answer.status == 404
    assert answer.error["type"] == "invalid_request_error"
    assert path in answer.error["message"]


@pytest.mark.parametrize("path", ["/api/tags", "/api/version", "/v1/api/tags"])
async def test_another_servers_path_is_a_404_that_says_where_v1_is(serve: Serve, path: str) -> None:
    answer = await (await serve(wait=False)).ask(path)
    assert (answer.status, answer.error["code"]) == (404, "no_such_path")
    message = answer.error["message"]
    assert message.startswith(f"there is nothing at {path}; this node has GET /")


async def test_a_wrong_method_is_a_405_that_names_the_right_one(serve: Serve) -> None:
    answer = await (await serve(wait=False)).ask("/v1/chat/completions")
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST"
    assert "POST" in answer.error["message"]


async def test_key_on_a_node_without_keys_is_ignored(serve: Serve) -> None:
    front = await serve()
    key = "Bearer sk-none"
    assert (await front.ask("/v1/models", Authorization=key)).status == 200
    answer = await front.ask("/v1/chat/completions", asked("hello"), Authorization=key)
    assert answer.text == "hello"


@pytest.mark.parametrize("flag", ["--no-hello", "--hang-in-load", "--exit-before-hello=1"])
async def test_lists_and_health_answer_at_once_whatever_the_child_does(
    serve: Serve, flag: str
) -> None:
    front = await serve(flag, wait=False, policy=RestartPolicy(intensity=1000))
    for path in ("/v1/models", "/models/m", "/health", "/health/live", "/cache", "/cluster/cache"):
        assert (await soon(front.ask(path))).status == 200
    for path in ("/v1/cluster/health", "/health/ready"):
        assert (await soon(front.ask(path))).status == 503


async def test_lists_and_health_answer_while_the_child_is_stuck_with_work(serve: Serve) -> None:
    front = await serve("--hang-after-tokens", "0")
    stuck = await soon(front.open("/v1/chat/completions", asked("hello", stream=True)))
    for path in ("/v1/models", "/health", "/v1/cluster/health", "/v1/cluster/cache"):
        assert (await soon(front.ask(path))).status == 200
    stuck.close()
