"""Lines that a rule drops of a system prompt are counted where an operator can see them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tests.front.asking import asked, model

if TYPE_CHECKING:
    import pytest

    from tests.front.asking import Serve

CHAT = "/v1/chat/completions"
BILLING = "x-anthropic-billing-header: cc_version=1; cch=0a1b2;"


async def test_dropped_lines_are_in_a_header_and_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    front = await serve(models=(model(drop_system_lines=("x-anthropic-*", "today")),))
    with caplog.at_level(logging.INFO):
        answer = await front.ask(CHAT, asked("hello", system=f"{BILLING}\ntoday\nBe kind."))
    assert answer.headers["X-System-Lines-Dropped"] == "2"
    assert answer.json["usage"]["prompt_tokens"] == len(["Be", "kind.", "hello"])
    assert any("dropped_lines=2" in line for line in caplog.messages)
    assert not any("cch" in line for line in caplog.messages)
    plain = await front.ask(CHAT, asked("hello", system="Be kind."))
    assert "X-System-Lines-Dropped" not in plain.headers


async def test_default_rule_drops_the_billing_line_of_claude_code(serve: Serve) -> None:
    answers = [
        await (await serve()).ask(
            CHAT, asked("hello", system=f"{BILLING.replace('0', nonce)}\nHi.")
        )
        for nonce in "12"
    ]
    assert [answer.json["usage"]["prompt_tokens"] for answer in answers] == [2, 2]
