"""A model's markers and its free text as llguidance's Lark grammar writes them.

[child]
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ANYTHING = "/(?s:.*)/"
"""Text of any length; llguidance allows no special token in such text."""


@dataclass(frozen=True, slots=True)
class LarkWriter:
    """Write markers as Lark. `special` tokens are named by id, because no text matches them."""

    special: Mapping[str, int]

    def word(self, word: str) -> str:
        """Return a marker as an expression, special tokens in it by id."""
        pieces = re.split(f"({'|'.join(map(re.escape, self.special))})", word)
        return " ".join(
            f"<[{self.special[piece]}]>" if piece in self.special else json.dumps(piece)
            for piece in pieces
            if piece
        )

    def up_to(self, word: str, name: str) -> tuple[str, str]:
        """Return free text and the marker that ends the text, as an expression and its rule.

        The text machine finds a marker in ordinary tokens too: the text may not contain the marker.
        """
        end = self.word(word)
        if not end.startswith("<["):
            return name, f"{name}[suffix={end}]: {ANYTHING}"
        spelled = re.escape(word).replace("/", "\\/")
        text = name.upper()
        return f"{text} {end}", f"{text}: {ANYTHING} & ~/(?s:.*){spelled}(?s:.*)/"
