"""The engine's messages, kept until the device is known to have raised no error.

On a GPU mlx may raise an error one step late. So messages leave in the next step, when the device
has been given more work and has raised no error; where no step follows, at once after `confirm`.
[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mlx_worker.child.frame_batcher import FrameBatcher
from mlx_worker.wire.messages import RequestFailed
from mlx_worker.wire.output import Done
from mlx_worker.wire.prompt_cache import CacheState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlx_worker.engine.kv.prompt_cache import CacheFacts, PromptCache
    from mlx_worker.wire.base import WireMessage


class Confirming(Protocol):
    """The part of an engine that the output needs."""

    @property
    def cache(self) -> PromptCache:
        """Return the prompt cache."""

    @property
    def is_unconfirmed(self) -> bool:
        """True if messages have to wait for `on_encoded`."""

    def confirm(self) -> None:
        """Raise the error of earlier work, if there was one."""


class ConfirmedOutput:
    """Send the messages of one engine, each after it is confirmed.

    `goes_on` tells whether the next step comes at once and only decodes.
    """

    def __init__(
        self, send: Callable[[Iterable[WireMessage]], None], goes_on: Callable[[], bool]
    ) -> None:
        self._batcher = FrameBatcher(send)
        self._goes_on = goes_on
        self._unconfirmed: list[WireMessage] = []
        self._cache_facts: CacheFacts | None = None
        self._notices: dict[int, str] = {}

    def add_notice(self, id_: int, notice: str) -> None:
        """Put a warning beside the end of a generation."""
        self._notices[id_] = notice

    def put(self, engine: Confirming, messages: list[Any]) -> None:
        """Send these messages once they are confirmed, with the cache's state if that changed."""
        if self._notices:
            messages = [self._with_notice(message) for message in messages]
        facts = engine.cache.facts
        if facts is not self._cache_facts:
            self._cache_facts = facts
            messages = [*messages, _cache_state(facts)]
        self._unconfirmed += messages
        if not engine.is_unconfirmed:
            engine.confirm()
            self._send_confirmed()

    def on_encoded(self) -> None:
        """Send what came before the step that the device was given just now."""
        if self._unconfirmed:
            self._send_confirmed()

    def _send_confirmed(self) -> None:
        confirmed, self._unconfirmed = self._unconfirmed, []
        self._batcher.put(confirmed, goes_on=self._goes_on())

    def _with_notice(self, message: Any) -> Any:
        """Return the end of a generation with its notice; any other message as it is."""
        if isinstance(message, Done | RequestFailed):
            notice = self._notices.pop(message.id, "")
            if notice and isinstance(message, Done):
                return message.with_notice(notice)
        return message


def _cache_state(facts: CacheFacts) -> CacheState:
    return CacheState(
        tokens=facts.tokens,
        system_prompt_hash=facts.system_prompt_hash,
        last_updated=facts.last_updated,
        entries=facts.entries,
        warmed=facts.warmed,
        bytes=facts.nbytes,
        capacity=facts.capacity,
    )
