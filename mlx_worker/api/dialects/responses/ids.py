"""Make the ids of responses and of their items.

[front]
"""

from __future__ import annotations

import secrets


def new_id(prefix: str) -> str:
    """Return a new id of an item."""
    return f"{prefix}_{secrets.token_hex(16)}"


def new_response_id() -> str:
    """Return a new id of a response."""
    return new_id("resp")
