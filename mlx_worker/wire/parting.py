"""Where a prompt parted from the last prompt of its session: figures and names, never text.

[both]
"""

from __future__ import annotations

from typing import Literal

from mlx_worker.wire.base import WirePart

PromptPart = Literal["none", "system", "tools", "arguments", "turn", "answer", "template", "prompt"]
"""What of a prompt is not as it was.

`none`: the prompt continues the last one and its answer, or repeats it; the words that open an
answer may differ. `arguments`: those of the chat template, such as a switch of reasoning. `turn`: a
message after the system prompt. `answer`: the answer did not come back as it was generated.
`template`: the client sent the same again, and the chat template shows it otherwise. `prompt`: a
prompt without roles.
"""


class Parting(WirePart, frozen=True, array_like=True):
    """Tell how many tokens a prompt shares with the last prompt of its session and its answer.

    These had `last` tokens together. `part` is what differs first. For a turn and an answer, `turn`
    counts the messages after the system prompt from 1, and `role` is the role of that message.
    """

    shared: int
    last: int
    part: PromptPart
    turn: int | None = None
    role: str = ""

    @property
    def lost(self) -> int:
        """The tokens of the last prompt and its answer that the new one does not begin with."""
        return 0 if self.part == "none" else self.last - self.shared

    @property
    def place(self) -> str:
        """The part in words, with the turn's number and role."""
        if self.turn is None:
            return self.part
        return f"{self.part} {self.turn}{f' ({self.role})' if self.role else ''}"
