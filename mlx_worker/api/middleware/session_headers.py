"""Find the session of a request in the headers of other servers and of coding agents.

The order goes from names that a caller chose for this purpose to names that a client always sends.
`docs/reference/dialects.md` has the same order.

[front]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlx_worker.api.dialects.session_fields import Session, conversation

if TYPE_CHECKING:
    from collections.abc import Mapping

SESSION_HEADERS: Final = (
    "X-SMG-Routing-Key",  # SGLang's model gateway
    "x-litellm-session-id",
    "X-Claude-Code-Session-Id",
    # Codex: a thread is one conversation, and a session may have several. Earlier versions wrote
    # underscores.
    "thread-id",
    "session-id",
    "thread_id",
    "session_id",
    "conversation_id",
    # opencode, for its own service and for others
    "x-opencode-session",
    "x-session-affinity",
)
"""Headers that name a session, the first one that is given counts; `X-Session-Id` goes before."""


def header_session(headers: Mapping[str, str]) -> Session | None:
    """Return the session that a header of another server or client names; None if none does."""
    for name in SESSION_HEADERS:
        value = headers.get(name)
        if value and (session := conversation(value)) is not None:
            return session
    return None
