"""The official clients wait for slow work in real time, with small numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anthropic
import openai
import pytest

from mlx_worker.config.schema import ServerConfig
from tests.front.asking import model
from tests.front.early.official import CLIENTS, Ask
from tests.front.early.reading import TEXT
from tests.supervisor_harness import PATIENT

if TYPE_CHECKING:
    from tests.front.asking import Serve

LIMIT = 1.0
"""Seconds that a client waits for a byte."""

OFTEN = ServerConfig(first_byte_timeout=0.2)
WAITING = replace(PATIENT, load_wait=2, keepalive_interval=0.2)
ON_DEMAND = (model(preload=False),)

every_client = pytest.mark.parametrize("ask", CLIENTS)


@pytest.mark.full
@every_client
@pytest.mark.parametrize("work", ["load", "prefill"])
async def test_official_client_outlasts_work_of_three_times_its_limit(
    serve: Serve, ask: Ask, work: str
) -> None:
    front = await serve(f"--{work}-for", "3", models=ON_DEMAND, server=OFTEN, resume=WAITING)
    assert await ask(front, LIMIT) == (TEXT, 3)


@pytest.mark.full
@every_client
async def test_official_client_gives_up_where_early_bytes_are_turned_off(
    serve: Serve, ask: Ask
) -> None:
    off = replace(WAITING, load_wait=10)
    silent = ServerConfig(first_byte_timeout=0)
    front = await serve("--load-for", "3", models=ON_DEMAND, server=silent, resume=off)
    with pytest.raises((openai.APITimeoutError, anthropic.APITimeoutError)):
        await ask(front, LIMIT)
