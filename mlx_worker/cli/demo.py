"""The command `mlx-worker demo`: serve a real model, and ask one question over HTTP.

The question is sent as any client would send it. [front]
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from mlx_worker.config.schema import CacheConfig, Config, ModelConfig, ServerConfig
from mlx_worker.errors import SourceUnavailable
from mlx_worker.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL = "smollm2-135m"
QUESTION = "What is the capital of France? Answer in one sentence."
READY_TIMEOUT = 300.0


def demo_config(models_dir: Path, port: int) -> Config:
    """Return the configuration of the demo: one model, which serves every model name."""
    model = ModelConfig(id=MODEL, path=MODEL, aliases=("current-model",), default=True)
    server = ServerConfig(port=port, models_dir=models_dir)
    cache = CacheConfig(disk=False)  # one question is asked: there is nothing to keep
    return Config(models=(model,), server=server, cache=cache, folder=Path.cwd())


async def run_demo(models_dir: Path, port: int, *, once: bool) -> None:
    """Serve, ask, print; then continue to serve until ctrl-C, unless `once` is set."""

    async def show(url: str) -> None:
        _print(f"mlx-worker serves {MODEL} at {url}\n\n> {QUESTION}\n")
        await _until_ready(url)
        async for text in _ask(url):
            _print(text)
        if once:
            _print("\n")
            raise DemoFinished
        _print(_what_next(url))

    try:
        await serve(demo_config(models_dir, port), on_listening=show)
    except DemoFinished:
        return


class DemoFinished(Exception):
    """Raised when the demo has printed the answer and `once` is set."""


async def _until_ready(url: str) -> None:
    """Poll the way a load balancer does."""
    deadline = asyncio.get_running_loop().time() + READY_TIMEOUT
    async with aiohttp.ClientSession() as session:
        while asyncio.get_running_loop().time() < deadline:
            async with session.get(f"{url}/health/ready") as response:
                if response.ok:
                    return
            async with session.get(f"{url}/health") as response:
                state = (await response.json())["models"][MODEL]
            if state["state"] == "failed":
                raise SourceUnavailable(f"{MODEL} did not start: {state['reason']}")
            await asyncio.sleep(0.1)
    raise SourceUnavailable(f"{MODEL} was not ready after {READY_TIMEOUT:.0f} s")


async def _ask(url: str) -> AsyncIterator[str]:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "stream": True,
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=body) as response,
    ):
        async for line in response.content:
            field, _, data = line.decode().strip().partition(": ")
            if field != "data" or data == "[DONE]":  # an empty line, a comment or the end
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise SourceUnavailable(f"the demo's question failed: {chunk['error']['message']}")
            if chunk["choices"]:
                yield chunk["choices"][0]["delta"].get("content") or ""


def _what_next(url: str) -> str:
    question = '{"messages":[{"role":"user","content":"Name three colours."}],"stream":true}'
    return f"""

Try next, in another terminal; ctrl-C here ends the demo:
  open {url} in a browser
  curl {url}/health
  curl {url}/v1/models
  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{question}'
"""


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
