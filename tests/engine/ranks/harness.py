"""A model over several processes, which play the scenarios of a test."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_worker.engine.ranks.ring import ReservedPort

if TYPE_CHECKING:
    from mlx_worker.wire.rank_place import Split

PROCESS = Path(__file__).with_name("rank_process.py")

SECONDS = 600


def run_ranks(folder: Path, split: Split, ranks: int, play: str) -> Any:
    """Return what a function of `scenarios` says on these ranks; no rank ends with an error."""
    with ExitStack() as stack:
        ports = [ReservedPort("127.0.0.1") for _ in range(ranks)]
        for port in ports:
            stack.callback(port.release)
        pairs = [socket.socketpair() for _ in range(ranks - 1)]
        for pair in pairs:
            stack.enter_context(pair[0])
            stack.enter_context(pair[1])
        of_rank = [[ours for ours, _ in pairs], *([theirs] for _, theirs in pairs)]
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [
                        *(sys.executable, str(PROCESS), play, str(folder), split, str(rank)),
                        ",".join(str(end.fileno()) for end in ends),
                        *(port.address for port in ports),
                    ],
                    pass_fds=[end.fileno() for end in ends],
                    stdout=subprocess.PIPE,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                )
            )
            for rank, ends in enumerate(of_rank)
        ]
        for process in processes:
            stack.callback(process.kill)
        for pair in pairs:  # else no follower would see the end of rank 0
            pair[0].close()
            pair[1].close()
        output, _ = processes[0].communicate(timeout=SECONDS)
        codes = [process.wait(SECONDS) for process in processes]
    assert codes == [0] * ranks
    return json.loads(output)
