"""A stretch of a prompt's text that is read as the tokens of an earlier answer.

The child that begins a generation reports the splices of its prompt, and the next child is given
them: so both read the same tokens. [both]
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from mlx_worker.wire.base import WirePart

if TYPE_CHECKING:
    from collections.abc import Iterable

_FORMAT: Final = "I"
"""Four bytes a token: the front passes them on and never reads them."""


class Splice(WirePart, frozen=True, array_like=True):
    """Say that `tokens` stand for the characters from `begin` to `end` of a prompt's text.

    `anchor` is the text of the added token before the turn, `place` is where that token ends, and
    `digest` is of all text up to there. `state` is the state of the output in which the turn
    begins.
    """

    anchor: str
    place: int
    digest: bytes
    begin: int
    end: int
    state: str
    tokens: bytes

    @property
    def token_ids(self) -> list[int]:
        """Return the ids of the tokens."""
        return unpacked(self.tokens)


def packed(tokens: Iterable[int]) -> bytes:
    """Return token ids in four bytes each."""
    return array(_FORMAT, tokens).tobytes()


def unpacked(data: bytes) -> list[int]:
    """Return the token ids that `packed` has packed."""
    tokens = array(_FORMAT)
    tokens.frombytes(data)
    return tokens.tolist()
