"""The whole node as its callers meet it: the command, a real child, real sockets, real clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import openai
import psutil
import pytest

from tests.faults.failing_harness import running_failing_node, set_fault
from tests.faults.failing_model import HOLD, Fault
from tests.processes import DEADLINE, RunningNode, eventually, has_ended, running_node, stopped
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def ask(client: openai.OpenAI, text: str, max_tokens: int = 24, **more: Any) -> str:
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": text}], max_tokens=max_tokens, **more
    )
    content = answer.choices[0].message.content
    assert isinstance(content, str)
    return content


def stream(client: openai.OpenAI, text: str, max_tokens: int = 24) -> Iterator[str]:
    with client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": text}],
        max_tokens=max_tokens,
        stream=True,
    ) as chunks:
        for chunk in chunks:
            yield chunk.choices[0].delta.content or ""


def test_the_openai_client_streams_what_it_gets_whole(client: openai.OpenAI) -> None:
    # How many pieces there are is the machine's: a node that lags sends many tokens in one.
    assert "".join(stream(client, "Hello", 240)) == ask(client, "Hello", 240)


def test_a_router_reads_the_tokens_of_a_chat_and_the_blocks_of_kv(node: RunningNode) -> None:
    body = {"messages": [{"role": "user", "content": f"{WORDS[3]} {WORDS[4]}"}]}
    answer = node.ask("/v1/chat/completions", {**body, "max_tokens": 1}).json
    tokens = node.ask("/tokenize", body).json
    assert tokens["count"] == len(tokens["tokens"]) == answer["usage"]["prompt_tokens"]

    metrics = node.ask("/metrics").body.decode()
    (blocks,) = re.findall(
        r'^vllm:cache_config_info{block_size="256",enable_prefix_caching="True",'
        r'model_name="tiny",num_gpu_blocks="(\d+)"} 1\.0$',
        metrics,
        re.MULTILINE,
    )
    assert int(blocks) > 0


@pytest.mark.full
def test_eight_streams_at_once_each_say_what_they_say_alone(
    node: RunningNode, client: openai.OpenAI
) -> None:
    prompts = [f"{WORDS[i]} {WORDS[i + 20]}" for i in range(8)]
    alone = [ask(client, prompt, 120) for prompt in prompts]

    def read(prompt: str) -> str:
        return "".join(stream(client, prompt, 120))

    with ThreadPoolExecutor(8) as pool:
        with stopped(node.child("tiny")):  # it gets all of them at once
            reading = [pool.submit(read, prompt) for prompt in prompts]
            eventually(lambda: node.model("tiny")["running"] == 8)
        assert [task.result() for task in reading] == alone


def test_a_system_prompt_is_a_miss_once_and_a_hit_after(client: openai.OpenAI) -> None:
    system = "You are somebody new. " + " ".join(WORDS[30:60])

    def request(text: str) -> tuple[str, int]:
        raw = client.chat.completions.with_raw_response.create(
            model="tiny",
            messages=[{"role": "system", "content": system}, {"role": "user", "content": text}],
            max_tokens=4,
        )
        usage = raw.parse().usage
        assert usage
        assert usage.prompt_tokens_details
        return raw.headers["X-Cache-Hit"], usage.prompt_tokens_details.cached_tokens or 0

    hit, _ = request("Hello")
    assert hit == "false"
    hit, cached = request("Good day")
    assert hit == "true"
    assert cached > 30


def test_a_warmed_prompt_is_hit_by_its_first_request(node: RunningNode) -> None:
    system = "You are warm. " + " ".join(WORDS[60:90])
    warmed = node.ask("/v1/cluster/cache/warm", {"systemPrompt": system}).json
    state = node.ask("/v1/cluster/cache").json
    assert state["systemPromptHash"] == warmed["systemPromptHash"]
    assert state["tokens"] == warmed["tokens"] > 30
    body = {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": "Hello"}],
        "max_tokens": 2,
    }
    answer = node.ask("/v1/chat/completions", body)
    assert answer.headers["X-Cache-Hit"] == "true"
    assert answer.json["usage"]["prompt_tokens_details"]["cached_tokens"] == warmed["tokens"]


def test_one_seed_is_one_answer_and_another_is_another(client: openai.OpenAI) -> None:
    first, second, other = (ask(client, "Hello", seed=s, temperature=1.0) for s in (5, 5, 6))
    assert first == second != other


def test_logprobs_come_whole_and_streamed_alike(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 12,
        "logprobs": True,
        "top_logprobs": 3,
    }
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.logprobs
    assert whole.logprobs.content
    streamed = [
        entry
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == whole.logprobs.content
    assert len(streamed) == 12
    assert all(len(entry.top_logprobs) == 3 for entry in streamed)
    assert all(entry.logprob == entry.top_logprobs[0].logprob < 0 for entry in streamed)
    assert "".join(entry.token for entry in streamed).strip() == whole.message.content
    assert all(entry.bytes == list(entry.token.encode()) for entry in streamed)


def test_a_stop_string_ends_the_answer(client: openai.OpenAI) -> None:
    whole = ask(client, "Hello")
    stop = whole[10:16]
    assert ask(client, "Hello", stop=stop) == whole[: whole.index(stop)]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_its_row(node: RunningNode, streamed: bool) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 7000,
        "stream": streamed,
    }
    connection = http.client.HTTPConnection(node.url.removeprefix("http://"), timeout=DEADLINE)
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    eventually(lambda: node.model("tiny")["running"] == 1)
    if streamed:
        connection.getresponse().read(64)
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    eventually(lambda: node.model("tiny")["running"] == 0)
    assert node.model("tiny")["metrics"]["requestsInFlight"] == 0


def test_the_context_length_is_refused_with_the_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "Hello " * 9000, 1)
    assert refused.value.code == "context_length_exceeded"
    assert "This model's maximum context length is 8192 tokens." in refused.value.message


def test_what_a_template_must_not_be_told_is_refused(node: RunningNode) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hello"}],
        "chat_template_kwargs": {"chat_template": "{{ 1 }}"},
    }
    answer = node.ask("/v1/chat/completions", body)
    assert answer.status == 400
    assert answer.json["error"]["param"] == "chat_template_kwargs"


@pytest.mark.full
def test_a_killed_child_comes_back_and_the_node_says_so(tiny: Path, tmp_path: Path) -> None:
    with running_node(tmp_path, {"tiny": tiny}) as node:
        node.wait_until_ready()
        before = node.model("tiny")
        psutil.Process(before["pid"]).kill()
        eventually(lambda: node.ask("/v1/cluster/health").status == 503)
        assert node.ask("/v1/models").status == 200
        node.wait_until_ready()
        after = node.model("tiny")
        assert after["pid"] != before["pid"]
        assert after["restarts"] == 1
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        assert node.ask("/v1/chat/completions", body).status == 200


@pytest.mark.full
def test_a_broken_stream_ends_with_its_error_and_the_connection_closes(
    tiny: Path, tmp_path: Path
) -> None:
    # The model is tried again later than its stream waits.
    supervisor = "max_restarts = 0\nresume_timeout = 1"
    with running_node(tmp_path, {"tiny": tiny}, supervisor=supervisor) as node:
        node.wait_until_ready()
        body = json.dumps(
            {
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 7000,
                "stream": True,
            }
        ).encode()
        host, port = node.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=DEADLINE) as raw:
            raw.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            heard = raw.recv(1 << 16)
            psutil.Process(node.model("tiny")["pid"]).kill()
            while data := raw.recv(1 << 16):  # to its end: the node closes
                heard += data
        assert b'"code":"child_lost"' in heard
        assert b"[DONE]" not in heard


def test_nothing_of_a_killed_front_is_left(nano: Path, tiny: Path, tmp_path: Path) -> None:
    with running_node(tmp_path, {"tiny": tiny, "nano": nano}) as node:
        node.wait_until_ready()
        family = node.children()
        assert len(family) == 2
        node.process.kill()
        eventually(lambda: all(has_ended(child) for child in family))


@pytest.mark.full
def test_the_node_answers_before_any_model_is_loaded(tiny: Path, tmp_path: Path) -> None:
    set_fault(tmp_path, Fault(where="load", kind=HOLD))
    supervisor = "load_wait = 0"
    with running_failing_node("tiny", tiny, tmp_path, supervisor=supervisor, wait=False) as node:
        assert [item["id"] for item in node.ask("/v1/models").json["data"]] == ["tiny"]
        assert node.ask("/health").json["status"] == "initializing"
        early = node.ask(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}
        )
        assert early.status == 503
        assert int(early.headers["Retry-After"]) >= 1


def test_sigterm_lets_a_running_stream_finish_and_refuses_new_work(
    tiny: Path, tmp_path: Path
) -> None:
    with (
        running_node(tmp_path, {"tiny": tiny}) as node,
        openai.OpenAI(base_url=f"{node.url}/v1", api_key="-", max_retries=0) as client,
    ):
        node.wait_until_ready()
        whole = ask(client, "Hello", 60)
        with ThreadPoolExecutor(1) as pool:
            with stopped(node.child("tiny")):  # the stream is not over before the node drains
                reading = pool.submit(lambda: "".join(stream(client, "Hello", 60)))
                eventually(lambda: node.model("tiny")["running"] == 1)
                node.process.terminate()
                eventually(lambda: node.ask("/health").json["status"] == "offline")
                late = node.ask(
                    "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}
                )
            assert late.status == 503
            assert late.json["error"]["code"] == "node_draining"
            assert reading.result() == whole
        assert node.process.wait(DEADLINE) == 0


@pytest.mark.full
def test_configured_prompts_are_warm_after_every_load(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("You are configured. " + " ".join(WORDS[:40]))
    with running_node(tmp_path, {"tiny": tiny}, extra='warm = ["system.txt"]') as node:
        for _ in range(2):
            eventually(lambda: node.ask("/cache").json["models"]["tiny"]["warmed"] == 1)
            assert node.ask("/cache?model=tiny").json["tokens"] > 40
            psutil.Process(node.model("tiny")["pid"]).kill()
            eventually(lambda: node.model("tiny")["state"] != "ready")


@pytest.mark.full
def test_health_is_answered_while_a_child_is_stopped_in_its_tracks(
    tiny: Path, tmp_path: Path
) -> None:
    with running_node(tmp_path, {"tiny": tiny}) as node:
        node.wait_until_ready()
        with stopped(node.child("tiny")):
            for path in ("/health", "/v1/cluster/health", "/v1/models", "/cache"):
                assert node.ask(path).status == 200


def test_twenty_connections_at_once_are_all_served(node: RunningNode) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    ready = threading.Barrier(20)

    def request(_: int) -> int:
        ready.wait(DEADLINE)
        return node.ask("/v1/chat/completions", body).status

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(request, range(20))) == [200] * 20


def test_a_body_that_is_cut_off_leaves_the_node_as_it_was(node: RunningNode) -> None:
    host, port = node.url.removeprefix("http://").split(":")
    with contextlib.closing(socket.create_connection((host, int(port)), timeout=DEADLINE)) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
    assert node.ask("/health").json["status"] == "healthy"


@pytest.mark.full
def test_the_first_request_may_come_before_the_model_does(tiny: Path, tmp_path: Path) -> None:
    with running_node(tmp_path, {"tiny": tiny}) as node:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        assert node.ask("/v1/chat/completions", body).status == 200
