"""The official clients with an idle limit, in injected time: they wait, gather and raise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.front.early.official import CLIENTS, ERRORS, Ask
from tests.front.early.reading import IDLE_LIMIT, TEXT
from tests.injected_time import now
from tests.rounds import variants

if TYPE_CHECKING:
    from tests.front.early.conftest import ServeInTime

every_client = pytest.mark.parametrize("ask", CLIENTS)


@every_client
@pytest.mark.parametrize("work", variants(["load", "prefill"], ["load"]))
async def test_official_client_outlasts_a_minute_of_work(
    serve_in_time: ServeInTime, ask: Ask, work: str
) -> None:
    front = await serve_in_time(f"--{work}-for", "60")
    sent = now()
    assert await ask(front, IDLE_LIMIT) == (TEXT, 3)
    assert now() - sent >= 60


@every_client
async def test_official_client_raises_a_refusal_after_an_early_begin(
    serve_in_time: ServeInTime, ask: Ask
) -> None:
    front = await serve_in_time("--load-for", "20", "--refuse")
    with pytest.raises(ERRORS, match="4096"):
        await ask(front, IDLE_LIMIT)
