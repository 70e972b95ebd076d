"""The end and the stop of each process of a model that reads a prompt."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.ranks.harness import BLOWS, BODIES, Blow, Strike, Watched, streams
from tests.synthetic_models import WORDS

if TYPE_CHECKING:
    from tests.processes import RunningNode

LONG: Final = " ".join(WORDS * 40)
"""A prompt that is read in several chunks."""


@pytest.mark.full
@pytest.mark.parametrize("blow", BLOWS, ids=str)
def test_end_or_stop_of_any_process_while_a_prompt_is_read_is_a_pause(
    node: RunningNode, blow: Blow
) -> None:
    # No prompt like an earlier one, which would be cached.
    messages = [{"role": "user", "content": f"{BLOWS.index(blow)} {LONG}"}]
    bodies = [{**body, "messages": messages} for body in BODIES[:2]]
    texts = asyncio.run(streams(node, "one", bodies))
    strike = Strike(node, blow, 0)
    watched = Watched(strike)
    assert asyncio.run(streams(node, blow.part.model, bodies, watched)) == texts
    strike.check(watched, "prefilling")
