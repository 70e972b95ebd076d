"""What the start of a node costs more with many records of KV on disk, and in memory.

For contributors: `python -m tests.tools.full_disk_start [--records 100000] [--rounds 5]` on a
machine that does nothing else. A folder is filled with records of the synthetic model's own
identity; then a node is started on an empty folder and on that one, in turn. Prints the medians of
the time to the first answer, with a saved index and by a scan of all headers.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import click

from mlx_worker.bench.processes import resident_megabytes
from mlx_worker.bench.servers.node import StartedNode
from mlx_worker.bench.synthetic.on_demand import models
from mlx_worker.kv_disk.files.payload import ArrayBytes, Dtype, LayerBytes, LayerFamily
from mlx_worker.kv_disk.files.records import Address, Kind, Record, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK: Final = 256
CHAIN: Final = 60
"""Chunks of one prompt: 15,360 tokens."""

IN_SEGMENT: Final = 63


def main() -> None:
    """Fill a folder, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root, models() as model:
        folders = {name: Path(root) / name for name in ("empty", "saved index", "scan")}
        for folder in folders.values():
            folder.mkdir()
            start(model("nano"), folder)
        for name in ("saved index", "scan"):
            fill(folders[name] / "kv", options.records)
        start(model("nano"), folders["saved index"])  # saves the index at its end
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in folders}
        for _ in range(options.rounds):
            for name, folder in folders.items():
                if name == "scan":
                    for index in folder.glob("kv/*/index"):
                        index.unlink()
                found[name].append(start(model("nano"), folder))
    base, _ = (median(column) for column in zip(*found["empty"], strict=True))
    for name, samples in found.items():
        ready, resident = (median(column) for column in zip(*samples, strict=True))
        click.echo(
            f"{name}: ready after {ready:.0f} ms ({ready - base:+.0f}), child {resident:.0f} MB"
        )


def start(model: Path, kept: Path) -> tuple[float, float]:
    """Start a node and stop it; return ms to the first answer, and MB of the child's memory."""
    with StartedNode(has_disk=True).opened([model], kept) as server:
        return server.started["ready"], resident_megabytes(server.roles())["child"]


def fill(folder: Path, records: int) -> None:
    """Write records of the identity whose folder is there already."""
    (own,) = (path for path in folder.iterdir() if path.is_dir())
    identity = bytes.fromhex(own.name)
    segment: list[bytes] = []
    number = 0
    for place, record in enumerate(made(records), 1):
        segment.append(bytes(encode(identity, record)))
        if len(segment) == IN_SEGMENT or place == records:
            number += 1
            file = own / f"{number:08d}.seg"
            file.touch(mode=0o600)
            file.write_bytes(b"".join(segment))
            segment = []


def made(count: int) -> Iterator[Record]:
    """Yield the chunks of prompts that no client has sent."""
    parent = b""
    for number in range(count):
        place = number % CHAIN
        key = hashlib.blake2b(b"%d" % number, digest_size=32).digest()
        before = parent if place else hashlib.blake2b(b"seed", digest_size=32).digest()
        payload = (LayerBytes(LayerFamily.FULL, (), (ArrayBytes(Dtype.UINT8, (32,), key), None)),)
        start_at = place * CHUNK
        yield Record(Address(Kind.DELTA, key), before, start_at, start_at + CHUNK, 1.0, payload)
        parent = key


if __name__ == "__main__":
    main()
