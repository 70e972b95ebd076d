"""A name for the weights that were loaded, without a read of all their gigabytes. [child]"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SAMPLES: Final = 256
_SAMPLE: Final = 256
"""So many places of each weights file, and so many bytes at each, are looked at."""

_WHOLE: Final = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files that a model's words depend on, read to their end."""


def weights_identity(folder: Path, configured: tuple[str, ...] = ()) -> str:
    """SHA-256 hex over what a model's folder holds: the same wherever the folder lies.

    `configured` is what the configuration puts in place of something in the folder.

    Weights are sampled all over, because two trainings of one shape differ nearly everywhere; the
    change of a single number may go unseen.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        for sample in _samples(path):
            digest.update(sample)
    for name in _WHOLE:
        if (folder / name).is_file():
            digest.update(f"{name}\n".encode() + (folder / name).read_bytes())
    for text in configured:
        digest.update(f"{len(text)} {text}\n".encode())
    return digest.hexdigest()


def _samples(path: Path) -> Iterator[bytes]:
    """The header, which names every array, and a little of the weights every so often."""
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        length = file.read(8)
        yield length + file.read(int.from_bytes(length, "little"))
        for place in range(file.tell(), size, max(size // _SAMPLES, _SAMPLE)):
            file.seek(place)
            yield file.read(_SAMPLE)
