"""What the node writes of its requests: ids, names and figures, never a word of theirs."""

from __future__ import annotations

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import openai

from tests.processes import DEADLINE, RunningNode, eventually, running_node, stopped
from tests.server.conftest import KEY

if TYPE_CHECKING:
    from pathlib import Path

MARK = "xyzzy"
KEYED = {"Authorization": f"Bearer {KEY}"}
SECRETS = (MARK, KEY)

TURNS = [
    {"role": "system", "content": f"{MARK} system"},
    {"role": "user", "content": f"{MARK} user"},
]
ASKED = {"messages": TURNS, "max_tokens": 4}
BODIES: list[tuple[str, Any]] = [
    ("/v1/chat/completions", ASKED | {"stop": [MARK], "user": MARK}),
    ("/v1/chat/completions", ASKED | {"model": MARK, "stream": True}),
    ("/v1/chat/completions", ASKED | {"temperature": MARK}),
    ("/v1/chat/completions", {"messages": [{"role": MARK, "content": MARK}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": MARK}]}]}),
    ("/v1/chat/completions", ASKED | {"tools": [{"type": "function", MARK: MARK}]}),
    ("/v1/chat/completions", ASKED | {"chat_template_kwargs": {MARK: [MARK]}}),
    ("/v1/chat/completions", ASKED | {"chat_template_kwargs": {"messages": MARK}}),
    ("/v1/chat/completions", {"messages": TURNS * 3000, "max_tokens": 4}),
    ("/v1/chat/completions", f'{{"messages": [{MARK}'.encode()),
    ("/v1/responses", {"input": MARK, "instructions": MARK, "max_output_tokens": 4}),
    ("/v1/responses", {"input": [{"type": MARK}]}),
    ("/v1/messages", {"system": MARK, "messages": TURNS[1:], "max_tokens": 4}),
    ("/v1/messages", ASKED | {"system": {MARK: MARK}}),
    ("/v1/completions", {"prompt": MARK, "max_tokens": 4, "echo": True}),
    ("/v1/completions", {"prompt": [[1 << 30]], "max_tokens": 4}),
    ("/tokenize", {"prompt": MARK}),
    ("/detokenize", {"tokens": [1 << 30, MARK]}),
    ("/cache/warm", {"systemPrompt": MARK}),
    (f"/{MARK}?{MARK}={MARK}", {"x": MARK}),
    (f"/cache?model={MARK}", None),
    (f"/admin/models/{MARK}/restart", {}),
]


def test_no_word_of_a_request_and_no_key_is_in_the_log(
    tiny: Path, tmp_path: Path, keys: Path
) -> None:
    with running_node(tmp_path, {"tiny": tiny}, server=f'api_keys_file = "{keys}"') as node:
        eventually(lambda: node.ask("/health/ready").status == 200)
        for i, (path, body) in enumerate(BODIES):
            answer = node.ask(path, body, headers=KEYED | {"X-Request-Id": f"asked-{i}"})
            assert answer.status < 500, (path, body, answer.body)
        for wrong in ({"Authorization": f"Bearer {MARK}"}, {"x-api-key": MARK}, {}):
            assert node.ask("/v1/models", headers=wrong).status == 401
        garbage(node)
        crash_in_the_middle(node)
        node.stop()
        log = "".join(node.log)
    assert '"request_id":"asked-0"' in log
    assert '"key":"alice"' in log
    assert "SIGKILL" in log
    assert [line for line in log.splitlines() if any(secret in line for secret in SECRETS)] == []


def garbage(node: RunningNode) -> None:
    """What is not HTTP, with words in it."""
    at = urlsplit(node.url)
    post = f"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n"
    for data in (
        f"{MARK} {MARK} {MARK}\r\n\r\n",
        f"GET /{MARK} HTTP/1.1\r\n{MARK}\r\n\r\n",
        f"GET / HTTP/1.1\r\nAuthorization: Bearer {KEY}\x00\r\n\r\n",
        f"{post}Transfer-Encoding: chunked\r\n\r\n{MARK}\r\n",
        f"{post}Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n{MARK}",
    ):
        with socket.create_connection((str(at.hostname), int(at.port or 0)), DEADLINE) as sock:
            sock.sendall(data.encode())
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(1 << 16):
                    pass


def crash_in_the_middle(node: RunningNode) -> None:
    """The child is killed while it answers; what it was told goes to the next one."""
    messages: Any = TURNS
    (child,) = [
        process
        for process in node.children()
        if process.cmdline()[0].startswith("mlx-worker: tiny")
    ]

    def is_running() -> bool:
        return bool(node.ask("/health", headers=KEYED).json["models"]["tiny"]["running"])

    with (
        openai.OpenAI(base_url=f"{node.url}/v1", api_key=KEY) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        with stopped(child):  # it has not said everything before it is killed
            stream = pool.submit(
                lambda: list(
                    client.chat.completions.create(
                        model="tiny", messages=messages, stream=True, max_tokens=20
                    )
                )
            )
            eventually(is_running)
            child.kill()
        assert stream.result()[-1].choices[0].finish_reason in ("stop", "length")
