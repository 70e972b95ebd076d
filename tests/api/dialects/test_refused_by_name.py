"""What the page of dialects calls refused is an `unsupported_field`, by the field's own name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_worker.api.dialects.chat import request as chat
from mlx_worker.api.dialects.completions import request as completions
from mlx_worker.api.dialects.messages import request as messages
from mlx_worker.api.dialects.responses import request as responses
from mlx_worker.errors import UnsupportedField

USER = {"role": "user", "content": "Hello"}
LOOK = {"type": "function", "function": {"name": "look"}}
CHAT = {"messages": [USER], "tools": [LOOK]}
COMPLETION = {"prompt": "Hello"}
RESPONSE = {"input": "Hello", "tools": [{"type": "function", "name": "look"}]}
MESSAGE = {"messages": [USER], "tools": [{"name": "look"}]}


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts]}]


@pytest.mark.parametrize(
    ("dialect", "body", "field", "value"),
    [
        (chat, CHAT, "functions", [{"name": "look"}]),
        (chat, CHAT, "function_call", {"name": "look"}),
        (chat, CHAT, "modalities", ["text", "audio"]),
        (chat, CHAT, "audio", {"voice": "a"}),
        (chat, CHAT, "moderation", {"model": "m"}),
        (chat, CHAT, "tools", [{"type": "custom", "custom": {"name": "look"}}]),
        (chat, CHAT, "tool_choice", "any"),
        (chat, CHAT, "tool_choice", {"type": "custom", "custom": {"name": "look"}}),
        (chat, CHAT, "tool_choice", {"type": "web_search"}),
        (chat, CHAT, "response_format", {"type": "structural_tag"}),
        (chat, CHAT, "messages", user({"type": "input_audio"})),
        (completions, COMPLETION, "suffix", "a"),
        (completions, COMPLETION, "best_of", 3),
        (responses, RESPONSE, "conversation", "conv_1"),
        (responses, RESPONSE, "prompt", {"id": "p"}),
        (responses, RESPONSE, "previous_response_id", "resp_1"),
        (responses, RESPONSE, "moderation", {"model": "m"}),
        (responses, RESPONSE, "text", {"format": {"type": "grammar"}}),
        (responses, RESPONSE, "tools", [{"type": "functions"}]),
        (responses, RESPONSE, "tool_choice", "any"),
        (responses, RESPONSE, "tool_choice", {"type": "mcp", "server_label": "a"}),
        (responses, RESPONSE, "tool_choice", {"type": "functions"}),
        (responses, RESPONSE, "input", [{"type": "functions"}]),
        (messages, MESSAGE, "container", "c"),
        (messages, MESSAGE, "tools", [{"type": "functions", "name": "look"}]),
        (messages, MESSAGE, "messages", user({"type": "functions"})),
    ],
)
def test_refused_values_are_unsupported_fields(
    dialect: Any, body: dict[str, Any], field: str, value: Any
) -> None:
    with pytest.raises(UnsupportedField) as caught:
        dialect.parse(json.dumps(body | {field: value}).encode())
    assert caught.value.param is not None
    assert caught.value.param.startswith(field)
    assert caught.value.message.startswith(field)


@pytest.mark.parametrize(
    ("dialect", "body", "field", "value", "said"),
    [
        (chat, CHAT, "tool_choice", "any", "'any' is not one of 'none', 'auto', 'required'"),
        (responses, RESPONSE, "tool_choice", "any", "'any' is not one of 'none', 'auto', 'requ"),
        (chat, CHAT, "response_format", {"type": "x"}, "'x' is not one of 'text', 'json_object', "),
        (responses, RESPONSE, "text", {"format": {"type": "x"}}, "'x' is not one of 'text', 'json"),
    ],
)
def test_refused_value_is_named_with_the_known_values(
    dialect: Any, body: dict[str, Any], field: str, value: Any, said: str
) -> None:
    with pytest.raises(UnsupportedField) as caught:
        dialect.parse(json.dumps(body | {field: value}).encode())
    assert said in caught.value.message
