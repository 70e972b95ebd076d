"""Hostile bodies against a real node: who else is held up, and for how long.

    python -m tests.tools.hostile                      # all trials, a node of its own
    python -m tests.tools.hostile bomb prompts         # those with these words in their names
    python -m tests.tools.hostile --url http://127.0.0.1:8081 --key KEY --model ID

A table, a line a trial: what the attacker was told; the worst answer time of `/health/live`; the
worst pause of another model's stream; the worst lag of the front's event loop (an upper bound).
The exit code is the number of trials in which health took longer than 0.1 s.

Attacker, observers and node are processes of their own, in sessions of their own: one interpreter
for both would measure itself, and Linux gives all processes of a session one share of the
processors, which a service and its clients do not have in common.
Two trials have nodes of their own: one whose stderr is not read, one whose model never answers.
"""

# ruff: noqa: T201  (a table is what this is for)
import argparse
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.synthetic_models import make_nano
from tests.tools.trials import TRIALS, Trial, named

KEY = "sk-hostile-0123456789"
GOOD = 0.1
"""Seconds that `/health` may take."""
EVERY = 0.01
"""Seconds between two questions for health."""
LIMIT = 30.0
"""Seconds that a trial is watched for at most; its attacker is ended then."""
AFTER = 0.5
"""Seconds that are watched after its answer."""

CONFIG = """
[server]
port = 0
models_dir = "{models}"
api_keys_file = "{keys}"
max_body_bytes = 67108864
[supervisor]
standby = 0
[log]
level = "{level}"
"""
MODEL = '[[models]]\nid = "{name}"\npath = "{path}"\n'


def main() -> int:
    """Run what the command line says. Return the number of bad trials."""
    options = parsed()
    if options.observe:
        observe(options)
        return 0
    if options.attack:
        attack(next(trial for trial in TRIALS if trial.name == options.attack), options)
        return 0
    print(f"{'trial':32} {'answer':28} {'health':>8} {'gap':>8} {'lag':>8}")
    if options.url:
        return sum(run(trial, options) for trial in named(options.words))
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        with own_node(Path(folder), options):
            bad += sum(run(trial, options) for trial in named(options.words))
        if not options.words or "stderr" in options.words:
            bad += unread_stderr(Path(folder), options)
        if not options.words or "share" in options.words:
            bad += stopped_share(Path(folder), options)
    return bad


def parsed() -> argparse.Namespace:
    """The command line; `--attack` and `--observe` are for its own processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("words", nargs="*", help="only trials with any of these in their names")
    parser.add_argument("--url", help="a node that runs already")
    parser.add_argument("--key", default=KEY)
    parser.add_argument("--model", default="attacked", help="the model that is asked")
    parser.add_argument("--other", default="other", help="the model whose stream is watched")
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    parser.add_argument("--observe", choices=("health", "stream"), help=argparse.SUPPRESS)
    return parser.parse_args()


# --- one trial ----------------------------------------------------------------------------


def run(trial: Trial, options: argparse.Namespace) -> bool:
    """Run one trial and print its line. Return whether it was bad."""
    before = lags(options)
    attacker = started(options, "--attack", trial.name)
    observers = {kind: started(options, "--observe", kind) for kind in ("health", "stream")}
    for ready in (attacker, *observers.values()):
        assert ready.stdout is not None
        ready.stdout.readline()  # its body is made, it watches
    # Not before: to import and to make a body takes a processor from those who are watched.
    for process in (*observers.values(), attacker):
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answer = said_within(attacker, LIMIT) or f"none in {LIMIT:g} s"
    time.sleep(AFTER)
    worst = {kind: float(said_within(popen, LIMIT) or "inf") for kind, popen in observers.items()}
    return line(trial.name, answer, worst["health"], worst["stream"], worst_lag(options, before))


def line(name: str, answer: str, health: float, gap: float | None, lag: float | None) -> bool:
    """Print a trial's line. Return whether it was bad."""
    figures = " ".join(
        "       -" if value is None else f"{value:8.3f}" for value in (health, gap, lag)
    )
    print(f"{name:32} {answer:28} {figures}", flush=True)
    return health > GOOD


def started(options: argparse.Namespace, *arguments: str) -> subprocess.Popen[str]:
    """Begin one of its own processes."""
    same = [f"--{name}={getattr(options, name)}" for name in ("url", "key", "model", "other")]
    command = [sys.executable, "-m", "tests.tools.hostile", *same, *arguments]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path.cwd(),
        start_new_session=True,
    )


def said_within(process: subprocess.Popen[str], seconds: float) -> str | None:
    """Close its input, wait for its end and return its last line; None where it does not end."""
    try:
        told, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    lines = told.splitlines()
    return lines[-1] if lines else None


# --- the attacker -------------------------------------------------------------------------


def attack(trial: Trial, options: argparse.Namespace) -> None:
    """Send a trial's body and print what came of it."""
    body = trial.body()
    headers = {"Content-Type": "application/json"} | trial.headers
    if trial.keyed:
        headers["Authorization"] = f"Bearer {options.key}"
    if trial.headers == {}:  # JSON as it stands
        body = body.replace(b"{", b'{"model":"%b",' % options.model.encode(), 1)
    print("ready", flush=True)
    sys.stdin.readline()
    told = [asked(options, trial.path, body, headers) for _ in range(trial.times)]
    print(told[-1])


def asked(options: argparse.Namespace, path: str, body: bytes, headers: dict[str, str]) -> str:
    """The status of one answer, its code and how long it took."""
    began = time.perf_counter()
    with contextlib.closing(connection(options, LIMIT)) as client:
        # It may be refused before all of it is sent: its answer may still be there.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.request("POST", path, body, headers)
        try:
            response = client.getresponse()
            told = response.read()
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
    took = time.perf_counter() - began
    code = re.search(rb'"code": ?"(\w+)"', told)
    return f"{response.status} {code[1].decode() if code else ''} {took:.1f} s"


def connection(options: argparse.Namespace, timeout: float) -> http.client.HTTPConnection:
    """A connection to the node."""
    at = urlsplit(options.url)
    return http.client.HTTPConnection(at.hostname or "", at.port, timeout=timeout)


# --- those who are held up ----------------------------------------------------------------


def observe(options: argparse.Namespace) -> None:
    """Watch from a line on standard input until that ends, and print the worst seconds."""
    begun, over = threading.Event(), threading.Event()
    kinds = {"health": answers_of_health, "stream": pauses_of_a_stream}
    seconds = kinds[options.observe](options)
    next(seconds)
    print("watching", flush=True)

    def wait() -> None:
        sys.stdin.readline()
        begun.set()
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    worst = 0.0
    for took in seconds:
        if begun.is_set():
            worst = max(worst, took)
        if over.is_set():
            break
    print(worst, flush=True)
    os._exit(0)


def answers_of_health(options: argparse.Namespace) -> Iterator[float]:
    """How long each answer took, a connection each: as a balancer asks."""
    while True:
        began = time.perf_counter()
        with contextlib.closing(connection(options, LIMIT)) as client:
            client.request("GET", "/health/live")
            client.getresponse().read()
        yield time.perf_counter() - began
        time.sleep(EVERY)


def pauses_of_a_stream(options: argparse.Namespace) -> Iterator[float]:
    """How long it was from each token of a stream to the next; a stream follows on another."""
    body = json.dumps(
        {
            "model": options.other,
            "messages": [{"role": "user", "content": "a"}],
            "stream": True,
            "max_tokens": 4000,
            "logit_bias": {str(token): -100 for token in (1, 2)},
        }
    )
    headers = {"Authorization": f"Bearer {options.key}"}
    while True:
        with contextlib.closing(connection(options, LIMIT)) as client:
            client.request("POST", "/v1/chat/completions", body, headers)
            response = client.getresponse()
            response.readline()
            last = time.perf_counter()
            while response.readline():
                now = time.perf_counter()
                yield now - last
                last = now


# --- the node's own word ------------------------------------------------------------------


def lags(options: argparse.Namespace) -> dict[float, float]:
    """The front's event loop's lag as `/metrics` has it: how often it was at most so many s."""
    with contextlib.closing(connection(options, LIMIT)) as client:
        client.request("GET", "/metrics", headers={"Authorization": f"Bearer {options.key}"})
        text = client.getresponse().read().decode()
    found = re.findall(r'mlx_worker_event_loop_lag_seconds_bucket\{le="(\S+)"\} (\S+)', text)
    return {float(bound): float(times) for bound, times in found}


def worst_lag(options: argparse.Namespace, before: dict[float, float]) -> float:
    """The upper bound of the worst lag since then."""
    now = lags(options)
    late = max(now.values()) - max(before.values())
    return next(bound for bound in sorted(now) if now[bound] - before[bound] >= late)


# --- nodes --------------------------------------------------------------------------------


@contextlib.contextmanager
def node(folder: Path, models: dict[str, str], *, level: str, read: bool) -> Iterator[str]:
    """A node with these models; its URL. `read`: is what it writes to stderr taken from it?"""
    keys = folder / "keys"
    keys.write_text(f"hostile:{KEY}\n")
    keys.chmod(0o600)
    config = folder / "mlx-worker.toml"
    sections = [MODEL.format(name=name, path=path) for name, path in models.items()]
    head = CONFIG.format(models=folder, keys=keys, level=level)
    config.write_text(head + "".join(sections))
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_worker", "serve", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        url = next(
            found[0]
            for line in process.stderr
            if (found := re.search(r"http://[\d.]+:\d+", line)) is not None
        )
        if read:
            threading.Thread(target=process.stderr.read, daemon=True).start()
        yield url
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT)
        process.kill()
        process.wait()


@contextlib.contextmanager
def own_node(folder: Path, options: argparse.Namespace) -> Iterator[None]:
    """A node with two models, which serve."""
    make_nano(folder / "nano")
    models = {options.model: "nano", options.other: "nano"}
    with node(folder, models, level="info", read=True) as options.url:
        until_ready(options)
        yield


def until_ready(options: argparse.Namespace) -> None:
    """Wait until all models serve."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.closing(connection(options, LIMIT)) as client:
            headers = {"Authorization": f"Bearer {options.key}"}
            client.request("GET", "/health", headers=headers)
            health: dict[str, Any] = json.loads(client.getresponse().read())
        if all(model["state"] == "ready" for model in health["models"].values()):
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the node's models do not come up")
        time.sleep(0.1)


def unread_stderr(folder: Path, options: argparse.Namespace) -> bool:
    """A node that writes more log than its pipe holds, and nobody reads it."""
    with node(folder, {options.model: "nano"}, level="debug", read=False) as options.url:
        headers = {"Authorization": f"Bearer {options.key}"}
        worst = 0.0
        for number in range(2000):
            began = time.perf_counter()
            try:
                with contextlib.closing(connection(options, 5)) as client:
                    # A name that nobody knows is a refusal, and a refusal a line of the log.
                    path = "/health/live" if number % 2 else "/v1/chat/completions"
                    body = None if number % 2 else "{}"
                    client.request("GET" if number % 2 else "POST", path, body, headers)
                    client.getresponse().read()
            except OSError:
                worst = float("inf")
                break
            worst = max(worst, time.perf_counter() - began)
    return line("stderr is not read", "", worst, None, None)


def stopped_share(folder: Path, options: argparse.Namespace) -> bool:
    """A node one of whose models lies where reading never ends: when does it say that it lives?"""
    share = folder / "share"
    share.mkdir()
    os.mkfifo(share / "config.json")
    (share / "tokenizer.json").write_text("{}")
    (share / "model.safetensors").write_bytes(b"")
    began = time.perf_counter()
    late = threading.Timer(LIMIT, lambda: os.close(os.open(share / "config.json", os.O_RDWR)))
    late.daemon = True
    late.start()
    try:
        models = {options.model: "nano", "share": "share"}
        with node(folder, models, level="info", read=True) as options.url:
            listening = time.perf_counter() - began
            worst = max(next(answers_of_health(options)) for _ in range(20))
    except StopIteration:
        return line("stopped share", "it does not listen", float("inf"), None, None)
    finally:
        late.cancel()
    return line("stopped share", f"listens after {listening:.1f} s", worst, None, None)


if __name__ == "__main__":
    sys.exit(main())
