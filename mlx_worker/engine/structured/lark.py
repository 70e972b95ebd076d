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
"""Text of any length; llguidance lets no special token into it."""


@dataclass(frozen=True, slots=True)
class LarkWriter:
    """`special` tokens by their text: a grammar names them by id, because no text matches them."""

    special: Mapping[str, int]

    def word(self, word: str) -> str:
        """A marker, whatever tokens it is made of."""
        pieces = re.split(f"({'|'.join(map(re.escape, self.special))})", word)
        return " ".join(
            f"<[{self.special[it]}]>" if it in self.special else json.dumps(it)
            for it in pieces
            if it
        )

    def up_to(self, word: str, name: str) -> tuple[str, str]:
        """Free text and the marker that ends it: an expression, and the rule that it needs.

        The text machine finds a marker in ordinary tokens too: the text may not spell it out.
        """
        end = self.word(word)
        if not end.startswith("<["):
            return name, f"{name}[suffix={end}]: {ANYTHING}"
        spelled = re.escape(word).replace("/", "\\/")
        text = name.upper()
        return f"{text} {end}", f"{text}: {ANYTHING} & ~/(?s:.*){spelled}(?s:.*)/"
