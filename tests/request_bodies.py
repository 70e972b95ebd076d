"""A body for every endpoint that takes one, as small as it can be and still be answered 200."""

from __future__ import annotations

from typing import Any

_CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}

BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": _CHAT | {"max_tokens": 4},
    "/completions": {"prompt": "hello", "max_tokens": 4},
    "/responses": {"input": "hello", "max_output_tokens": 4},
    "/messages": _CHAT | {"max_tokens": 4},
    "/messages/count_tokens": _CHAT,
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [70, 71]},
    "/cache/warm": {"system_prompt": "be brief"},
    "/cluster/cache/warm": {"systemPrompt": "be brief"},
    "/admin/logs/level": {"level": "info"},
}
"""By path, as `openapi.json` has it."""
