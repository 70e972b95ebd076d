"""A request whose answer reasons and calls tools goes on in another process after any token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlx_worker.engine.engine import Engine
from mlx_worker.engine.loading import read_model
from mlx_worker.engine.prompt import render
from mlx_worker.wire.output import Done, FinishReason, RowOutput, StepOutput
from mlx_worker.wire.request import ChatRequest, Sampling
from tests.engine.text_harness import CollectedSpans
from tests.forced_output import force_output
from tests.synthetic_models import CALL, CALL_PARTS, CALLED, IM_END, THOUGHT

if TYPE_CHECKING:
    from pathlib import Path

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
WHOLE_CALL = (CALL, *CALL_PARTS[:2], CALLED)


def answered(
    engine: Engine, request: ChatRequest, replay: list[int]
) -> tuple[list[int], list[CollectedSpans], FinishReason]:
    """The tokens that followed, what each of them and then the end released, and the reason."""
    prompt = render(engine._tokenizer, request.messages, request.template_kwargs, request.tools)
    first = engine.admit(1, request, prompt, replay=replay)
    heard: list[Any] = [first] if isinstance(first, Done) else []
    while engine.active:
        heard += engine.step()
    rows = [row for message in heard if isinstance(message, StepOutput) for row in message.rows]
    (done,) = (message for message in heard if isinstance(message, Done))
    released = []
    words: list[RowOutput | Done] = [*rows, done]
    for message in words:
        said = CollectedSpans()
        said.add(message.spans)
        released.append(said)
    return [token for row in rows for token in row.tokens], released, done.finish


@pytest.mark.parametrize(
    ("tokens", "finish", "more"),
    [
        (("!", THOUGHT, "?", *WHOLE_CALL, IM_END), "tool_calls", {}),
        (("!", THOUGHT, "?", *WHOLE_CALL, "<"), "tool_calls", {"one_call": True}),
        ((THOUGHT, *WHOLE_CALL, "?", ".", "<"), "tool_calls", {"stop": ["?."]}),
        ((THOUGHT, "<", *WHOLE_CALL[:3]), "length", {"max_tokens": 4}),
        (("!", THOUGHT, "?", "<"), "length", {"max_tokens": 4}),
    ],
)
def test_what_follows_any_token_is_what_would_have_followed(
    caller: Path, tokens: tuple[str, ...], finish: str, more: dict[str, Any]
) -> None:
    model, tokenizer, _ = read_model(caller)
    engine = Engine(model, tokenizer, context_length=1024, max_concurrency=4)
    said = force_output(tokenizer, *tokens)
    bias = {int(token): value for token, value in said.pop("logit_bias").items()}
    request = ChatRequest(
        [{"role": "user", "content": "Hello"}],
        Sampling(seed=1, logit_bias=bias, **said),
        tools=TOOLS,
        **({"max_tokens": 16} | more),
    )
    all_tokens, released, reason = answered(engine, request, [])
    assert reason == finish
    assert [tokenizer.decode([token]) for token in all_tokens] == list(tokens[: len(all_tokens)])
    for done in range(1, len(all_tokens) + 1):
        rest, later, again = answered(engine, request, all_tokens[:done])
        assert (rest, later, again) == (all_tokens[done:], released[done:], reason)
