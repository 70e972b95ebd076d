"""What one prompt recalls of earlier answers: by memory, or as a former process did.

[child]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlx_worker.engine.history.history import TurnHistory
    from mlx_worker.engine.history.meaning import Tools
    from mlx_worker.engine.history.memory import TurnPlace
    from mlx_worker.wire.splice import Splice


@dataclass(frozen=True, slots=True)
class Recall:
    """Hold the history of a model, and what of a request matters to splices.

    `tools` are those that the request offers. `given` are the splices of the process that began
    the generation; None: no process has begun it.
    """

    history: TurnHistory
    tools: Tools
    given: Sequence[Splice] | None = None

    def splices(self, text: str) -> list[Splice]:
        """Return the stretches of a prompt's text that have the tokens of earlier answers."""
        if self.given is not None:
            return self.history.check(text, self.given)
        return self.history.splices(text, self.tools)

    def place_of(self, text: str, tokens: Sequence[int], state: str) -> TurnPlace | None:
        """Return where the answer to the prompt is remembered; None where it is not."""
        return self.history.place_of(text, tokens, state)
