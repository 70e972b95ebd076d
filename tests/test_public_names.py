"""Every public name of the product, held equal to the list in `public_names.txt`.

A public name is what a client, a router, a dashboard, a configuration file, a script or a Python
program may rely on. This file imports nothing but the doors that stay: a real node is started by
the installed command with a tiny model, and the names are read from its answers, its metrics, its
`openapi.json`, the commands' `--help`, the shipped schema of the configuration, and the Python
modules that programs import. The inner structure of the package may change without a change here.

A change of the list is a decision: renew the list with

    python tests/test_public_names.py > tests/public_names.txt

and say in the changelog what changed.
"""

from __future__ import annotations

import contextlib
import difflib
import gzip
import http.client
import importlib
import importlib.metadata
import inspect
import io
import json
import os
import re
import runpy
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HERE: Final = Path(__file__).resolve()
ROOT: Final = HERE.parent.parent
GOLDEN: Final = HERE.with_name("public_names.txt")
DEADLINE: Final = 60.0
"""Seconds that a single wait may take; passing this limit is a failure."""

ABOUT: Final = """\
The public names of mlx-worker. Written by `python tests/test_public_names.py`; do not edit.
A change of this file is a decision, and has a line in the changelog.

`{id}` and the like stand for names that an installation chooses. A key's path ends with a colon;
after the colon are the keys of the object at that path. `[]` is an element of a list.
"""

Section = list[str]


def test_public_names_are_those_in_the_list() -> None:
    found, kept = public_names(), GOLDEN.read_text(encoding="utf-8")
    difference = difflib.unified_diff(
        kept.splitlines(), found.splitlines(), "public_names.txt", "the product", lineterm="", n=1
    )
    if found != kept:
        raise AssertionError(
            "a public name has changed. That is a decision: renew the list with\n"
            "    python tests/test_public_names.py > tests/public_names.txt\n"
            "and say in the changelog what changed for users.\n\n" + "\n".join(difference)
        )


def public_names() -> str:
    """Return the whole list, gathered from the product."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        make_model(Path(folder) / "models" / MODEL)
        python = begin("python", MLX_MODEL_PATH=str(Path(folder) / "models" / MODEL))
        ending.enter_context(python)
        with running_node(Path(folder)) as node:
            gathered = Gathered(node)
            gathered.ask_everything()
            commands = begin("commands", node.url, json.dumps(gathered.health))
            ending.enter_context(commands)
            gathered.crash_a_process()
            parts = {
                "HTTP: methods, paths, query, statuses and the codes of errors (openapi.json)": (
                    paths(gathered.openapi)
                ),
                "HTTP: keys of request bodies (openapi.json)": bodies(gathered.openapi),
                "HTTP: keys of answers and events (a node's answers)": gathered.answers(),
                "HTTP: request headers that the node reads (what each of them changed)": (
                    gathered.request_headers()
                ),
                "HTTP: headers of answers (a node's answers)": gathered.response_headers(),
                "Metrics (GET /metrics): name, type, labels": metrics(gathered.metrics),
                "Events (GET /admin/events): kind, and its facts where the test's node had one": (
                    gathered.events()
                ),
                "Configuration (config/mlx-worker.schema.json): key, type, default": (
                    configuration()
                ),
                **ended(commands),
                "Environment variables (each was set and heeded)": node.variables,
                **ended(python),
            }
    text = ABOUT
    for title, lines in parts.items():
        text += f"\n## {title}\n\n" + "".join(f"{line}\n" for line in lines)
    return text


# --- a tiny model -------------------------------------------------------------------------

MODEL: Final = "model"
WIDTH: Final = 8
SPECIALS: Final = (
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
)
END: Final = 1
FAVOURITES: Final = (*'a}"]{:,x', "<tool_call>", "</tool_call>")
"""Tokens that the model says where it may, the likeliest first; others only where it must."""
TEMPLATE: Final = (
    "{%- for tool in tools or [] %}{{- tool | tojson }}{%- endfor %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}"
    "{%- for tool_call in message.tool_calls or [] %}"
    "{%- set tool_call = tool_call.function %}"
    '{{- \'<tool_call>\\n{"name": "\' + tool_call.name + \'", "arguments": \' }}'
    "{{- (tool_call.arguments | tojson) + '}\\n</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking %}{{- '<think>\\n' }}{%- endif %}"
    "{%- endif %}"
)


def make_model(folder: Path) -> None:
    """Write a llama whose every token has the same logits, so that its answers are known."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    alphabet = [chr(byte if byte in printable else next(spare)) for byte in range(256)]
    tokens = [*SPECIALS, *alphabet]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    files: dict[str, Any] = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "intermediate_size": WIDTH,
            "max_position_embeddings": 4096,
            "vocab_size": len(tokens),
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "eos_token_id": END,
        },
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [
                {"id": i, "content": token, "special": i <= END, **flags}
                for i, token in enumerate(SPECIALS)
            ],
            "pre_tokenizer": {**byte_level, "use_regex": True},
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "vocab": {token: i for i, token in enumerate(tokens)},
                "merges": [],
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": SPECIALS[END],
            "additional_special_tokens": list(SPECIALS[: END + 1]),
            "clean_up_tokenization_spaces": False,
            "chat_template": TEMPLATE,
        },
    }
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    surplus = bytes(8)  # worth a warning, which is an event
    (folder / "model.safetensors").write_bytes(_safetensors(tokens) + surplus)


def _safetensors(tokens: Sequence[str]) -> bytes:
    """Attention and perceptron add nothing: what the head says is the same for every token."""
    likes = {token: 1 - i / len(FAVOURITES) for i, token in enumerate(FAVOURITES)}
    square = (WIDTH, WIDTH)
    layer = "model.layers.0."
    tensors: dict[str, tuple[tuple[int, ...], list[float]]] = {
        "model.embed_tokens.weight": ((len(tokens), WIDTH), [1.0] * len(tokens) * WIDTH),
        "lm_head.weight": (
            (len(tokens), WIDTH),
            [likes.get(token, -i / 1e4) for i, token in enumerate(tokens) for _ in range(WIDTH)],
        ),
        **{
            f"{layer}{part}_proj.weight": (square, [0.0] * WIDTH * WIDTH)
            for part in (*(f"self_attn.{it}" for it in "qkvo"), *GATED)
        },
        **{
            name: ((WIDTH,), [1.0] * WIDTH)
            for name in (
                "model.norm.weight",
                f"{layer}input_layernorm.weight",
                f"{layer}post_attention_layernorm.weight",
            )
        },
    }
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        start = len(data)
        data += struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, len(data))}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


GATED: Final = ("mlp.gate", "mlp.up", "mlp.down")


# --- a node -------------------------------------------------------------------------------

KEY: Final = "key-of-the-public-names"
PAGE: Final = "http://page.example"
CONFIG: Final = f"""
[server]
host = "127.0.0.1"
port = 0
cors_origins = ["{PAGE}"]
[supervisor]
standby = 0
max_crashes = 1
backoff_initial = 0
[log]
level = "info"
[[models]]
id = "{MODEL}"
path = "{MODEL}"
aliases = ["other"]
default = true
chat_template_kwargs = {{ enable_thinking = false }}
[[models]]
id = "missing"
path = "missing"
preload = false
"""


class Answer:
    """An answer of the node: status, headers and body."""

    def __init__(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = dict(headers)
        self.body = body

    @property
    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)


class Node:
    """A node that runs, and the environment variables that it was seen to heed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.variables: Section = []

    def ask(
        self, method: str, path: str, body: Any = None, until: bytes = b"", **headers: str
    ) -> Answer:
        """Ask with the key; read the whole body, or a stream until an event has `until` in it."""
        named = {"Authorization": f"Bearer {KEY}"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=DEADLINE)
        with contextlib.closing(connection):
            data = body if isinstance(body, bytes | None) else json.dumps(body)
            connection.request(method, path, data, {k: v for k, v in named.items() if v})
            response = connection.getresponse()
            read = b"" if until else response.read()
            while until and not (until in read and read.endswith(b"\n\n")):
                read += response.readline()
            return Answer(response.status, response.getheaders(), read)


@contextlib.contextmanager
def running_node(folder: Path) -> Iterator[Node]:
    """Yield a node whose model is ready."""
    file, log = folder / "mlx-worker.toml", folder / "log"
    file.write_text(CONFIG, encoding="utf-8")
    given = {
        "MLX_WORKER_API_KEYS": f"tester:{KEY}",
        "MLX_WORKER_LOG_FILE": str(log),
        "MLX_WORKER_KV": str(folder / "kv"),
        "MLX_WORKER_MODELS": str(folder / "models"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_worker", "serve", "--config", str(file)],
        env=environment(given),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        node = Node(_url_of(process, log))
        eventually(lambda: node.ask("GET", "/health/ready").status == 200)
        assert node.ask("GET", "/health", Authorization="").status == 401, "keys are heeded"
        node.variables += [*given, "MLX_WORKER_API_KEY", "MLX_MODEL_PATH"]
        node.variables.sort()
        yield node
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0, "a node that is told to end ends with 0"
    finally:
        process.kill()
        process.wait()


def _url_of(process: subprocess.Popen[bytes], log: Path) -> str:
    """Read the URL in the log file, which is where MLX_WORKER_LOG_FILE says."""
    found: list[str] = []

    def is_listening() -> bool:
        assert process.poll() is None, "the node ended"
        text = log.read_text() if log.exists() else ""
        found.extend(re.findall(r"http://127\.0\.0\.1:\d+", text))
        return bool(found)

    eventually(is_listening)
    return found[0]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without settings of the product, and with these."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MLX_")} | dict(given)


def eventually(condition: Callable[[], bool]) -> None:
    """Ask until the condition holds: a fact of another process sends no event here."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE} s"
        time.sleep(0.02)


# --- keys of JSON -------------------------------------------------------------------------

CHOSEN: Final = {
    "models": "{id}",
    "enteredAt": "{state}",
    "misses": "{reason}",
    "restartsBy": "{cause}",
    "metadata": "{name}",
    "from": "{key}",
    "env": "{name}",
    "chat_template_kwargs": "{name}",
}
"""Objects whose keys are no names of ours, by their own key; what stands for those keys."""
OF_THE_CALLER: Final = frozenset({"tools", "schema", "input"})
"""Objects that a request had, or that the model said."""
LEFT_OUT: Final = frozenset({"loading", "facts", "samples"})
"""Objects that are there at some moments only, or that another list has."""
WORDS: Final = frozenset({"object", "type", "role", "code", "finish_reason", "stop_reason"})
"""Keys whose values are names too."""

Keys = defaultdict[str, set[str]]


def add_keys(value: Any, keys: Keys, path: str = "") -> None:
    """Add the keys of an answer's objects, by the path of each object."""
    if isinstance(value, list):
        for element in value:
            add_keys(element, keys, f"{path}[]")
    elif isinstance(value, dict):
        for key, below in value.items():
            last = re.split(r"[.\]]", path)[-1]
            name = str(CHOSEN.get(last, key))
            if path.endswith("logprobs.top_logprobs[]") and "logprob" not in value:
                name = "{token}"
            keys[path].add(name)
            where = f"{path}.{name}" if path else name
            if name in WORDS and isinstance(below, str):
                keys[f"{where} ="].add(below)
            elif name not in OF_THE_CALLER | LEFT_OUT:
                add_keys(below, keys, where)


def key_lines(keys: Keys) -> Section:
    """Return a line an object."""
    return [
        f"    {path}{'' if path.endswith('=') else ':'} {' '.join(sorted(names))}".replace(
            "    : ", "    : "
        )
        for path, names in sorted(keys.items())
    ]


def sse(body: bytes) -> Iterator[tuple[str, Any]]:
    """Yield each event's name and value; an end that is no JSON is yielded as its text."""
    for block in body.decode().split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.split("\n") if line)
        if "data" in fields:
            data = fields["data"]
            name = " ".join(filter(None, ("id" * ("id" in fields), fields.get("event", "data"))))
            yield name, json.loads(data) if data.startswith("{") else data


# --- what is asked ------------------------------------------------------------------------

HELLO: Final = [{"role": "user", "content": "Hello"}]
NO_ARGUMENTS: Final = {"type": "object", "properties": {}, "additionalProperties": False}
FUNCTION: Final = {"name": "x", "description": "x", "parameters": NO_ARGUMENTS}
TOOL: Final = {"type": "function", "function": FUNCTION}
CHAT: Final = {"messages": HELLO, "max_tokens": 2}
RESPONSE: Final = {"input": "Hello", "max_output_tokens": 2}
MESSAGE: Final = {"messages": HELLO, "max_tokens": 2}
THINKING: Final = {"chat_template_kwargs": {"enable_thinking": True}}
ONE_WORD: Final = {"structured_outputs": {"choice": ["a"]}}
HOSTED: Final = [{"type": "web_search_20250305"}]
"""A tool that the node leaves out, with a warning."""

SESSION: Final = {"prompt_cache_key": "mine"}
BYE: Final = [{"role": "user", "content": "Goodbye"}]
BILLED: Final = [{"role": "system", "content": "x-anthropic-billing-header: 1\nBe kind."}, *HELLO]
"""A prompt with a line that the node drops."""

GENERATIONS: Final[Sequence[tuple[str, Mapping[str, Any]]]] = (
    ("chat/completions", CHAT),
    ("chat/completions", CHAT | {"logprobs": True, "top_logprobs": 1, "n": 2, "seed": 1}),
    ("chat/completions", CHAT | THINKING),
    ("chat/completions", CHAT | {"tools": HOSTED}),
    ("chat/completions", CHAT | {"stop": ["a"]}),
    ("chat/completions", CHAT | SESSION),
    ("chat/completions", CHAT | SESSION | {"messages": BYE}),
    ("chat/completions", CHAT | SESSION | {"messages": BILLED}),
    (
        "chat/completions",
        CHAT
        | {"max_tokens": 200, "tools": [TOOL], "tool_choice": "required"}
        | {"parallel_tool_calls": False},
    ),
    ("completions", {"prompt": "Hello", "max_tokens": 2, "logprobs": 1, "echo": True}),
    ("completions", {"prompt": "Hello", "max_tokens": 2, "n": 2, "stop": ["a"]}),
    ("responses", RESPONSE | {"metadata": {"a": "b"}}),
    ("responses", RESPONSE | THINKING | {"reasoning": {"summary": "auto"}}),
    ("responses", RESPONSE | THINKING),
    ("responses", RESPONSE | ONE_WORD),
    ("responses", RESPONSE | SESSION),
    ("responses", RESPONSE | SESSION | {"input": BYE}),
    ("responses", RESPONSE | {"tools": HOSTED}),
    (
        "responses",
        RESPONSE
        | {
            "max_output_tokens": 200,
            "tools": [{"type": "function", **FUNCTION}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
    ),
    ("responses", RESPONSE | {"include": ["message.output_text.logprobs"], "top_logprobs": 1}),
    ("messages", MESSAGE),
    ("messages", MESSAGE | ONE_WORD),
    ("messages", MESSAGE | SESSION),
    ("messages", MESSAGE | SESSION | {"messages": BYE}),
    ("messages", MESSAGE | {"tools": [{**HOSTED[0], "name": "web_search"}]}),
    ("messages", MESSAGE | {"stop_sequences": ["a"]}),
    ("messages", MESSAGE | {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
    (
        "messages",
        MESSAGE
        | {
            "max_tokens": 200,
            "tools": [{"name": "x", "description": "x", "input_schema": NO_ARGUMENTS}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        },
    ),
)

OTHERS: Final[Sequence[tuple[str, str, Any]]] = (
    ("GET", "", None),
    ("GET", "metrics", None),
    ("POST", "messages/count_tokens", MESSAGE),
    ("POST", "tokenize", {"prompt": "Hello"}),
    ("POST", "detokenize", {"tokens": [70]}),
    ("POST", "cache/warm", {"system_prompt": "You are."}),
    ("POST", "cluster/cache/warm", {"systemPrompt": "You are."}),
    ("GET", "models", None),
    ("GET", f"models/{MODEL}", None),
    ("GET", "health/live", None),
    ("GET", "health/ready", None),
    ("GET", "health?brief", None),
    ("GET", "cluster/health", None),
    ("GET", "cache", None),
    ("GET", f"cache?model={MODEL}", None),
    ("GET", "cluster/cache", None),
    ("GET", "admin/events", None),
    ("GET", "admin/history", None),
    ("GET", "admin/requests", None),
    ("GET", "admin/config", None),
    ("POST", "admin/requests/missing/cancel", None),
    ("GET", "admin/processes", None),
    ("GET", "admin/logs", None),
    ("GET", f"admin/logs?model={MODEL}", None),
    ("PUT", "admin/logs/level", {"level": "info"}),
    ("POST", "admin/reload", None),
    ("POST", f"admin/models/{MODEL}/load", None),
    ("POST", "admin/models/missing/restart", None),
    ("POST", "admin/models/missing/unload", None),
    ("DELETE", "cache", None),
)

LONG: Final = [{"role": "user", "content": "a" * 9000}]
REFUSED: Final[Sequence[tuple[str, str, Any]]] = (
    ("GET", "nowhere", None),
    ("PUT", "health", None),
    *(
        ("POST", path, body)
        for path, prompt in (
            ("chat/completions", {"messages": LONG}),
            ("completions", {"prompt": "a" * 9000}),
            ("responses", {"input": LONG}),
            ("messages", {"messages": LONG, "max_tokens": 2}),
        )
        for body in (prompt, {}, prompt | {"model": "missing"})
    ),
)

REQUEST_HEADERS_ELSEWHERE: Final = ("Host", "Sec-Fetch-Site")
"""Read only by a node without keys, which the test's node is not: named in the package's source."""

PLAIN_HEADERS: Final = frozenset({"Content-Length", "Date", "Server", "Connection"})
"""Of every answer, or of HTTP itself."""

RARE_EVENTS: Final = frozenset(
    {
        "evict",
        "loop",
        "loop held",
        "memory limit",
        "no room",
        "outage",
        "package replaced",
        "pause",
        "pressure",
        "prompt parted",
        "resume",
        "weights changed",
    }
)
"""Kinds that this short test meets on some machines only; their facts are not listed."""

FLEETING_LABELS: Final = frozenset({"mlx_worker_loop_held_total", "mlx_worker_child_held_total"})
"""Metrics without samples unless something was slow; their labels are not listed."""


class Gathered:
    """What the node has answered."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._answers: dict[str, Keys] = defaultdict(lambda: defaultdict(set))
        self._headers: dict[str, set[str]] = defaultdict(set)
        self._facts: dict[str, set[str]] = defaultdict(set)
        self.openapi: Any = None
        self.metrics: list[str] = []
        self.health: Any = None

    # --- asking ---

    def ask_everything(self) -> None:
        """Ask for each answer once, while the model is well."""
        self.openapi = self._node.ask("GET", "/openapi.json").json
        for path, body in GENERATIONS:
            self._heed(f"POST /{path}", self._node.ask("POST", f"/v1/{path}", body))
            streamed = self._node.ask("POST", f"/v1/{path}", {**body, "stream": True})
            self._heed(f"POST /{path}, streamed", streamed)
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        for path, body in ("chat/completions", CHAT), ("completions", {"prompt": "Hello"}):
            streamed = self._node.ask("POST", f"/v1/{path}", {**body, **usage, "max_tokens": 2})
            self._heed(f"POST /{path}, streamed", streamed)
        for method, path, body in OTHERS:
            named = re.sub(rf"(?<=[/=])({MODEL}|missing)\b", "{id}", path)
            self._heed(f"{method} /{named}", self._node.ask(method, f"/{path}", body))
        for method, path, body in REFUSED:
            answer = self._node.ask(method, f"/{path}", body)
            assert answer.status >= 400, f"{method} {path}: {answer.body!r}"
            self._heed(f"{method} /{path}, refused", answer)
        for path in "models", f"models/{MODEL}":
            answer = self._node.ask("GET", f"/{path}", anthropic_version="2023-06-01")
            self._heed(f"GET /{path.replace(f'/{MODEL}', '/{id}')}, anthropic-version", answer)
        answer = self._node.ask("POST", "/tokenize", b"", Content_Encoding="br")
        self._heed("POST /tokenize, refused", answer)
        answer = self._node.ask("GET", "/models", anthropic_version="x", Authorization="")
        self._heed("GET /models, without a key, anthropic-version", answer)
        self._heed("GET /models, without a key", self._node.ask("GET", "/models", Authorization=""))
        for path in "admin/events/stream", "admin/logs/stream":
            self._heed(f"GET /{path}", self._node.ask("GET", f"/{path}", until=b"data: "))
        watch, until = "/admin/watch?logs=*&requests=1", b"event: requests"
        self._heed("GET /admin/watch", self._node.ask("GET", watch, until=until))
        self._heed_health()
        self.heed_metrics(b'process="model"')

    def crash_a_process(self) -> None:
        """Kill the model's process under one stream of each dialect; each ends with an error."""
        pid = self.health["models"][MODEL]["pid"]
        started, threads = threading.Barrier(len(LASTING) + 1), []
        for path, body in LASTING:
            work = lambda path=path, body=body: self._stream(path, body, started)  # noqa: E731
            threads.append(threading.Thread(target=work, daemon=True))
            threads[-1].start()
        started.wait(DEADLINE)
        os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join(DEADLINE)
        self.heed_metrics(b"mlx_worker_restarts_total{")
        self._heed_health()

    def _stream(self, path: str, body: Mapping[str, Any], started: threading.Barrier) -> None:
        connection = http.client.HTTPConnection(self._node.url[7:], timeout=DEADLINE)
        headers = {"Authorization": f"Bearer {KEY}"}
        with contextlib.closing(connection):
            connection.request("POST", f"/v1/{path}", json.dumps({**body, "stream": True}), headers)
            response = connection.getresponse()
            read = response.readline()
            started.wait(DEADLINE)
            read += response.read()
        *_, (name, error) = (event for event in sse(read) if event[1] != "[DONE]")
        add_keys(error, self._answers[f"POST /{path}, streamed, its process lost: {name}"])

    def heed_metrics(self, sample: bytes) -> None:
        """Keep the metrics as soon as they have this sample."""

        def has_it() -> bool:
            answer = self._node.ask("GET", "/metrics")
            self.metrics.append(answer.body.decode())
            return sample in answer.body

        eventually(has_it)

    def _heed_health(self) -> None:
        answer = self._node.ask("GET", "/health")
        self._heed("GET /health", answer)
        self.health = answer.json

    def _heed(self, what: str, answer: Answer) -> None:
        self._headers[what].update(
            f"Content-Type={value.partition(';')[0]}" if name == "Content-Type" else name
            for name, value in answer.headers.items()
            if name not in PLAIN_HEADERS
        )
        if answer.headers["Content-Type"].startswith("text/event-stream"):
            for name, value in sse(answer.body):
                kind = value.get("type", "") if name == "data" and isinstance(value, dict) else ""
                if isinstance(value, str):
                    self._answers[f"{what}: {name}"]["="].add(value)
                else:
                    add_keys(value, self._answers[": ".join(filter(None, (what, name, kind)))])
        elif answer.headers["Content-Type"].startswith("application/json"):
            add_keys(answer.json, self._answers[what])

    # --- the lists ---

    def answers(self) -> Section:
        """Return the keys of each answer."""
        lines: Section = []
        for what, keys in sorted(self._answers.items()):
            lines += [what, *key_lines(keys)]
        return lines

    def response_headers(self) -> Section:
        """Return the names of headers, by the answers that had them."""
        return [
            f"{what}: {' '.join(sorted(names))}" for what, names in sorted(self._headers.items())
        ]

    def request_headers(self) -> Section:
        """Return the headers that were seen to change an answer."""
        ask = self._node.ask
        preflight = ask(
            "OPTIONS",
            "/models",
            Authorization="",
            Origin=PAGE,
            Access_Control_Request_Method="GET",
            Access_Control_Request_Headers="x-api-key",
        )
        from_page = ask("GET", "/models", Origin=PAGE)
        self._headers["GET /models, from a page in cors_origins"] |= {
            name for name in from_page.headers if name not in PLAIN_HEADERS
        }
        self._headers["OPTIONS /models, from a page in cors_origins"] |= {
            name for name in preflight.headers if name not in PLAIN_HEADERS
        }
        openmetrics = ask("GET", "/metrics", Accept="application/openmetrics-text")
        packed = gzip.compress(json.dumps({"prompt": "Hello"}).encode())
        seen = {
            "Accept": openmetrics.headers["Content-Type"].startswith("application/openmetrics"),
            "Access-Control-Request-Headers": "Access-Control-Allow-Headers" in preflight.headers,
            "Access-Control-Request-Method": "Access-Control-Allow-Methods" in preflight.headers,
            "Authorization": ask("GET", "/models", Authorization="").status == 401,
            "Content-Encoding": ask("POST", "/tokenize", packed, Content_Encoding="gzip").status
            == 200,
            "Last-Event-ID": ask(
                "GET", "/admin/events/stream", until=b"data: ", Last_Event_ID="2"
            ).body.startswith(b"id: 3"),
            "Origin": "Access-Control-Allow-Origin" in from_page.headers,
            "X-Request-Id": ask("GET", "/nowhere", X_Request_Id="mine").headers["X-Request-Id"]
            == "mine",
            "X-Session-Id": ask("POST", "/v1/chat/completions", CHAT, X_Session_Id="mine").headers[
                "X-Session-Id"
            ]
            == "mine",
            "anthropic-version": "GET /models, anthropic-version" in self._answers,
            "x-api-key": ask("GET", "/models", Authorization="", x_api_key=KEY).status == 200,
        }
        return sorted(
            [name for name, is_read in seen.items() if is_read]
            + [f"{name} (named in the source)" for name in in_source(REQUEST_HEADERS_ELSEWHERE)]
        )

    def events(self) -> Section:
        """Return the kinds of events with their facts."""
        for event in self._node.ask("GET", "/admin/events").json["events"]:
            self._facts[event["kind"]].update(event["facts"])
        met = self._facts.keys() - RARE_EVENTS
        recorded = recorded_events()
        assert met <= recorded, f"kinds that no call in the source names: {met - recorded}"
        lines = [f"{kind}: {' '.join(sorted(self._facts[kind]))}" for kind in met]
        return sorted(lines + [f"{kind} (named in the source)" for kind in recorded - met])


LASTING: Final[Sequence[tuple[str, Mapping[str, Any]]]] = (
    ("chat/completions", CHAT | {"max_tokens": 4000}),
    ("completions", {"prompt": "Hello", "max_tokens": 4000}),
    ("responses", RESPONSE | {"max_output_tokens": 4000}),
    ("messages", MESSAGE | {"max_tokens": 4000}),
)


def in_source(names: Sequence[str]) -> Section:
    """Return those of the names that stand in the package's source as a whole string."""
    texts = source_texts()
    return [name for name in names if any(f'"{name}"' in text for text in texts)]


def recorded_events() -> set[str]:
    """Return the kinds of all events that the package's source records.

    A kind that a node has sent can be no other: each call names its kind, or this fails.
    """
    kinds = set()
    for text in source_texts():
        for argument in re.findall(r"events\.record\(\s*([^,)]+)", text):
            assert re.fullmatch(r'"[a-z ]+"', argument), f"an event without a name: {argument}"
            kinds.add(argument.strip('"'))
    return kinds


def source_texts() -> list[str]:
    """Return the source of the package, by file."""
    package = importlib.import_module("mlx_worker")
    folder = Path(str(package.__file__)).parent
    return [file.read_text(encoding="utf-8") for file in folder.rglob("*.py")]


# --- openapi.json -------------------------------------------------------------------------


def paths(document: Any) -> Section:
    """Return each path with its methods and query, and the codes of errors by status."""
    lines: Section = []
    for path, operations in sorted(document["paths"].items()):
        for method, operation in sorted(operations.items()):
            query = [it["name"] for it in operation["parameters"] if it["in"] == "query"]
            lines.append(f"{method.upper()} {path}{'?' * bool(query)}{'&'.join(query)}")
            for status, answer in sorted(operation["responses"].items()):
                codes = re.findall(r"^- `(\w+)`", answer["description"], re.MULTILINE)
                media = "" if codes else " ".join(sorted(answer.get("content", ())))
                if method != "head":
                    lines.append(f"    {status}: {' '.join(sorted(codes)) or media}")
    return lines


def bodies(document: Any) -> Section:
    """Return the keys of each request body; a key with a star is required."""
    lines: Section = []
    for path, operations in sorted(document["paths"].items()):
        for method, operation in sorted(operations.items()):
            if "requestBody" in operation:
                keys: Keys = defaultdict(set)
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                _add_schema(schema, document["components"]["schemas"], keys, "", ())
                lines += [f"{method.upper()} {path}", *key_lines(keys)]
    return lines


def _add_schema(schema: Any, types: Any, keys: Keys, path: str, within: tuple[str, ...]) -> None:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in within:
            _add_schema(types[name], types, keys, path, (*within, name))
        return
    for choice in schema.get("anyOf", []) + schema.get("oneOf", []):
        _add_schema(choice, types, keys, path, within)
    for key, below in schema.get("properties", {}).items():
        keys[path].add(key + "*" * (key in schema.get("required", ())))
        _add_schema(below, types, keys, f"{path}.{key}" if path else key, within)
    if isinstance(schema.get("items"), dict):
        _add_schema(schema["items"], types, keys, f"{path}[]", within)
    words = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
    keys[f"{path} ="].update(it for it in words if isinstance(it, str))
    if not keys[f"{path} ="]:
        del keys[f"{path} ="]


# --- metrics, configuration ---------------------------------------------------------------


def metrics(texts: Sequence[str]) -> Section:
    """Return each metric with its type and labels; of labels of ours also the values."""
    text = "\n".join(texts)
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    labels: dict[str, set[str]] = defaultdict(set)
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for sample, inside in re.findall(r"^([\w:]+)\{(.*)\} \S+$", text, re.MULTILINE):
        name = sample if sample in types else re.sub(r"_(bucket|sum|count)$", "", sample)
        assert name in types, f"a sample without a type: {sample}"
        for label, value in re.findall(r'([\w:]+)="((?:[^"\\]|\\.)*)"', inside):
            labels[name].add(label)
            values[name, label].add(value)
    lines = []
    for name, kind in sorted(types.items()):
        shown = [] if name in FLEETING_LABELS else sorted(labels[name])
        lines.append(" ".join((name, kind, *shown)))
        lines += [
            f"    {label} = {' '.join(sorted(values[name, label]))}"
            for label in shown
            if label in (name, "outcome", "dialect", "process")
        ]
    return lines


def configuration() -> Section:
    """Return each key with its type and its default."""
    schema = json.loads((ROOT / "config" / "mlx-worker.schema.json").read_text(encoding="utf-8"))
    return _settings(schema)


def _settings(table: Any, section: str = "") -> Section:
    lines: Section = []
    for name, key in sorted(table["properties"].items()):
        path = f"{section}.{name}" if section else name
        if "properties" in key.get("items", {}):
            lines += _settings(key["items"], f"{path}[]")
        elif "properties" in key:
            lines += _settings(key, path)
        else:
            taken = key.get("enum") or key["type"]
            words = taken if isinstance(taken, str) else " | ".join(taken)
            default = f" = {json.dumps(key['default'])}" if "default" in key else ""
            required = " (required)" if name in table.get("required", ()) else ""
            lines.append(f"{path}: {words}{default}{required}")
    return lines


# --- in processes of their own ------------------------------------------------------------


def begin(part: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start this file in a process of its own, which imports what this one should not."""
    return subprocess.Popen(
        [sys.executable, str(HERE), part, *arguments],
        env=environment({"COLUMNS": "110", **variables}),
        stdout=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> dict[str, Section]:
    """Return what it has gathered: lines by title."""
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, said
    gathered: dict[str, Section] = json.loads(said)
    return gathered


def commands(url: str, health: str) -> dict[str, Section]:
    """Return commands and options by `--help`, and exit codes by what ends with them."""
    lines: Section = []
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        words = waiting.pop()
        code, said = run(*words, "--help")
        assert code == 0, said
        usage, _, rest = said.partition("\n\n")
        lines.append(" ".join(usage.removeprefix("Usage: ").split()).replace("- ", "-"))
        section = ""
        for line in rest.splitlines():
            if found := re.match(r"(\w+):$", line):
                section = found[1]
            elif section == "Options" and re.match(r"  -", line):
                lines.append("    " + re.split(r"\s{2,}", line.strip())[0])
            elif section == "Commands" and (found := re.match(r"  (\S+)", line)):
                waiting.append((*words, found[1]))
    return {
        "Commands and options (--help)": _grouped(lines),
        "Exit codes (of the command, by what was done)": exit_codes(url, json.loads(health)),
    }


def _grouped(lines: Section) -> Section:
    """Sort the commands; the options of each stay beneath their command, sorted."""
    groups: list[Section] = []
    for line in lines:
        if line.startswith(" "):
            groups[-1].append(line)
        else:
            groups.append([line])
    return [line for group in sorted(groups) for line in (group[0], *sorted(group[1:]))]


def exit_codes(url: str, health: Any) -> Section:
    """Return what ended with which code."""
    os.environ["MLX_WORKER_API_KEY"] = KEY
    ends = {
        "the version is asked for": run("--version"),
        "an option that does not exist": run("status", "--no-such-option"),
        "a configuration that does not exist": run("check", "/nowhere/mlx-worker.toml"),
        "a node that cannot be reached": run("status", "--url", "http://127.0.0.1:1"),
        "a model that the node does not have": run("load", "unknown", "--url", url),
    }
    for word in ("healthy", "degraded", "unhealthy", "initializing", "offline"):
        with answering(health | {"status": word}) as stub:
            ends[f"status of a node that is {word}"] = run("status", "--url", stub)
    del os.environ["MLX_WORKER_API_KEY"]
    ends["status without the node's key"] = run("status", "--url", url)
    return [f"{code}: {what}" for code, what in sorted((it[0], what) for what, it in ends.items())]


def run(*words: str) -> tuple[int, str]:
    """Run the command; return its exit code and its output."""
    scripts = importlib.metadata.entry_points(group="console_scripts", name="mlx-worker")
    assert scripts, "it is installed"
    sys.argv = ["mlx-worker", *words]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_module("mlx_worker", run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
        except Exception as error:  # noqa: BLE001  (as Python would end: the list tells)
            return 1, repr(error)
    return 0, said.getvalue()


@contextlib.contextmanager
def answering(value: Any) -> Iterator[str]:
    """Yield the URL of a server that answers everything with this value."""
    body = json.dumps(value).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            del format, args

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


MODULES: Final = (
    "mlx_worker.cache",
    "mlx_worker.health",
    "mlx_worker.inference",
    "mlx_worker.server",
)
INJECTED: Final = "mlx_worker.server"
"""What these functions take beyond a configuration injects parts, and is for tests."""
RAISED: Final = (
    *("CacheError", "HealthError", "InferenceError", "InvalidSetting", "ModelNotFoundError"),
)
"""Errors that the modules' functions raise, by the names that programs catch."""


def python() -> dict[str, Section]:
    """Return what the modules export, and the codes of all errors."""
    lines: Section = []
    for name in MODULES:
        module = importlib.import_module(name)
        lines.append(name)
        for public in sorted(module.__all__):
            lines += [f"    {line}" for line in _exported(name, public, getattr(module, public))]
    errors = importlib.import_module("mlx_worker.errors")
    lines.append("mlx_worker.errors")
    for name in RAISED:
        bases = [it for it in (*RAISED, "ValueError") if it != name]
        known = [(it, getattr(errors, it, ValueError)) for it in bases]
        above = [it for it, base in known if issubclass(getattr(errors, name), base)]
        lines.append(f"    class {name}({', '.join(above)}): message param retry_after")
    assert sys.modules["mlx_worker.inference"].count_tokens("a") == 1, "MLX_MODEL_PATH is heeded"
    return {
        "Python modules that programs import": lines,
        "Errors: code, HTTP status, type, exit code of a command": _errors(errors.WorkerError),
    }


def _exported(module: str, name: str, value: Any) -> Section:
    if inspect.isclass(value):
        methods = inspect.getmembers(value, inspect.isfunction)
        return [
            f"class {name}",
            *(f"    {it}{_parameters(call)}" for it, call in methods if not it.startswith("_")),
        ]
    if inspect.isfunction(value):
        parameters = _parameters(value, required_only=module == INJECTED)
        shown = value() if name.startswith("get_") else None
        keys = f" -> {' '.join(sorted(shown))}" if isinstance(shown, dict) else ""
        return [f"{name}{parameters}{keys}"]
    return [f"{name} = {value!r}" if isinstance(value, str) else name]


def _parameters(function: Any, *, required_only: bool = False) -> str:
    signature = inspect.signature(function)
    listed = [
        it.replace(annotation=inspect.Parameter.empty)
        for it in signature.parameters.values()
        if not (required_only and it.kind is inspect.Parameter.KEYWORD_ONLY)
    ]
    return str(signature.replace(parameters=listed, return_annotation=inspect.Signature.empty))


def _errors(root: Any) -> Section:
    """Return every error of the package; names of classes are no public names."""
    lines, waiting = set(), [root]
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        kind, ends = error.kind, error.exit_code
        lines.add(f"{error.code}: {error.status} {kind} {ends}{'' if error.resend else RESEND}")
    return sorted(lines)


RESEND: Final = " (X-Should-Retry: false)"

PARTS: Final[Mapping[str, Callable[..., dict[str, Section]]]] = {
    "commands": commands,
    "python": python,
}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        part, *arguments = sys.argv[1:]
        sys.stdout.write(json.dumps(PARTS[part](*arguments)))
    else:
        sys.stdout.write(public_names())
