"""The messages that ask for the tokens of a prompt, and for the text of tokens.

[both]
"""

from __future__ import annotations

from mlx_worker.wire.base import WireMessage
from mlx_worker.wire.request import ChatRequest

# --- front → child ------------------------------------------------------------------------


class Tokenize(WireMessage, frozen=True):
    """Ask for the tokens that a `Generate` of this request would read; nothing is generated."""

    id: int
    request: ChatRequest


class Detokenize(WireMessage, frozen=True):
    """Ask for the text of these tokens."""

    id: int
    tokens: list[int]


# --- child → front ------------------------------------------------------------------------


class TokenizeResult(WireMessage, frozen=True):
    """End a `Tokenize`: the number of tokens, and their ids as a list in JSON.

    The front's event loop passes a million ids on as bytes; decoding them would take 50 ms.
    """

    id: int
    count: int
    tokens: bytes


class DetokenizeResult(WireMessage, frozen=True):
    """End a `Detokenize`: the text as a string in JSON, which the front passes on."""

    id: int
    text: bytes
