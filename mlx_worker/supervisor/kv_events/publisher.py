"""Sends the KV events of one model to subscribers, over ZeroMQ as vLLM does.

Each batch is one message of a PUB socket: topic, sequence number, payload. A ROUTER socket sends
batches again, from the number that a request names. Nothing here waits for a subscriber: ZeroMQ
drops the messages of one that lags, which then finds a gap in the numbers. This module is only
imported where a model publishes events: pyzmq is an extra.

[front]
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import zmq
import zmq.asyncio

from mlx_worker.supervisor.kv_events.encoding import (
    END_OF_REPLAY,
    SEQUENCE_BYTES,
    sequence_bytes,
)

if TYPE_CHECKING:
    from mlx_worker.supervisor.kv_events.log import KvEventBatch, KvEventLog

WAITING_BATCHES: Final = 256
"""Messages, each of at most about 80 kB."""

LARGEST_REQUEST: Final = 1024
"""Bytes of the largest message that a subscriber may send."""

MAX_REPLAYS: Final = 4
"""Replays at a time; further requests wait in their sockets."""

REPLAY_TIMEOUT: Final = 10.0
"""Seconds that a subscriber may take to read one batch of a replay."""

RETRY_SECONDS: Final = 0.02

BATCHES_AT_ONCE: Final = 16
"""Batches of a replay after which the event loop has a turn."""

LINGER_MS: Final = 200


class EventSockets:
    """The bound sockets of one model. Raises OSError if an address cannot be bound.

    `waiting` messages wait for one subscriber; later ones are dropped.
    """

    def __init__(
        self,
        log: KvEventLog,
        endpoint: str,
        replay: str | None,
        topic: str,
        waiting: int = WAITING_BATCHES,
    ) -> None:
        self._log = log
        self._topic = topic.encode()
        self._waiting = waiting
        self._stack = contextlib.ExitStack()
        self._replays: set[asyncio.Task[None]] = set()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        try:
            self._publisher = context.socket(zmq.PUB)
            self._bind(self._publisher, endpoint)
            if replay is not None:
                router = zmq.asyncio.Socket(context, zmq.ROUTER)
                # Or a message for which there is no room would be lost without an error.
                router.setsockopt(zmq.ROUTER_MANDATORY, 1)
                self._bind(router, replay)
                serving = asyncio.create_task(self._serve_replays(router))
                self._stack.callback(serving.cancel)
        except zmq.ZMQError as error:
            self.close()
            raise OSError(error.errno, zmq.strerror(error.errno or 0)) from error

    def send(self, batch: KvEventBatch) -> None:
        """Send a batch to the subscribers that there are."""
        frames = [self._topic, sequence_bytes(batch.sequence), batch.payload()]
        self._publisher.send_multipart(frames, flags=zmq.NOBLOCK)

    def close(self) -> None:
        """Close the sockets; what was sent last has a moment to leave."""
        for replay in self._replays:
            replay.cancel()
        self._stack.close()

    def _bind(self, socket: zmq.Socket[Any], endpoint: str) -> None:
        self._stack.callback(socket.close, LINGER_MS)
        socket.set_hwm(self._waiting)
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_REQUEST)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        socket.bind(endpoint)

    # --- replays ---

    async def _serve_replays(self, router: zmq.asyncio.Socket) -> None:
        free = asyncio.Semaphore(MAX_REPLAYS)
        while True:
            await free.acquire()
            client, start = await _request(router)
            replay = asyncio.create_task(self._replay(router, client, start))
            self._replays.add(replay)
            replay.add_done_callback(self._replays.discard)
            replay.add_done_callback(lambda _: free.release())

    async def _replay(self, router: zmq.asyncio.Socket, client: bytes, start: int) -> None:
        """Send the batches from `start` on, and the end, until the subscriber is gone or hangs."""
        with contextlib.suppress(zmq.ZMQError, TimeoutError):
            for sent, (sequence, payload) in enumerate(self._log.since(start), 1):
                await _send(router, [client, b"", sequence_bytes(sequence), payload])
                if sent % BATCHES_AT_ONCE == 0:
                    await asyncio.sleep(0)
            await _send(router, [client, b"", END_OF_REPLAY, b""])


async def _request(router: zmq.asyncio.Socket) -> tuple[bytes, int]:
    """Return who asks for a replay, and from which sequence number; ignore all else."""
    while True:
        frames = await router.recv_multipart()
        if len(frames) == 3 and not frames[1] and len(frames[2]) == SEQUENCE_BYTES:  # noqa: PLR2004
            return frames[0], int.from_bytes(frames[2], "big")


async def _send(router: zmq.asyncio.Socket, frames: list[bytes]) -> None:
    """Send to one subscriber once there is room for it. Raises ZMQError if there is none."""
    async with asyncio.timeout(REPLAY_TIMEOUT):
        while True:
            try:
                await router.send_multipart(frames, flags=zmq.NOBLOCK)
            except zmq.Again:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return
