"""The names under which KV is stored: a hash chain over chunks of token ids.

A key covers every token before the key's end and everything that makes KV right: the weights, the
versions of mlx and mlx-lm, the class of each layer's cache, the dtype, the adapter, the device
that computed and the settings of its libraries. Equal keys mean equal KV; nothing is found by the
name of a model. Pure. [both]
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNK_TOKENS: Final = 256
KEY_BYTES: Final = 32
IDENTITY_BYTES: Final = 16

_PERSON: Final = b"mlxworker-kv-1"
_COUNT: Final = struct.Struct("<I")


class HasDigest(Protocol):
    """What names the folder of an identity, and each record in the folder."""

    @property
    def digest(self) -> bytes:
        """Return the hash of an identity."""


@dataclass(frozen=True)
class KvIdentity:
    """Everything but the tokens that the bytes of KV depend on."""

    weights: str
    mlx: str
    mlx_lm: str
    layers: tuple[str, ...]
    dtype: str
    adapter: str = ""
    device: str = ""
    settings: str = ""

    @cached_property
    def encoded(self) -> bytes:
        """Return the identity as bytes; no two identities have the same bytes."""
        versions = (self.mlx, self.mlx_lm, self.dtype)
        texts = (self.weights, *versions, self.adapter, self.device, self.settings, *self.layers)
        fields = [text.encode() for text in texts]
        return b"".join(_COUNT.pack(len(field)) + field for field in fields)

    @cached_property
    def digest(self) -> bytes:
        """Return the hash that each record and the folder of this identity carry."""
        return hashlib.blake2b(self.encoded, digest_size=IDENTITY_BYTES, person=_PERSON).digest()

    @cached_property
    def seed(self) -> bytes:
        """Return the key before the first chunk."""
        return hashlib.blake2b(self.encoded, digest_size=KEY_BYTES, person=_PERSON).digest()


@dataclass(frozen=True, slots=True)
class Link:
    """A chunk of a chain: tokens `start` to `stop`, after the chunk with the key `parent`."""

    key: bytes
    parent: bytes
    start: int
    stop: int


def next_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Return the key of a chunk by the key of the chunk before."""
    digest = hashlib.blake2b(parent, digest_size=KEY_BYTES, person=_PERSON)
    digest.update(array("q", tokens))
    return digest.digest()


def chain(identity: KvIdentity, tokens: Sequence[int]) -> list[Link]:
    """Return the chunks of all tokens; the last one may be shorter than the others."""
    links = []
    parent = identity.seed
    for start in range(0, len(tokens), CHUNK_TOKENS):
        ids = tokens[start : start + CHUNK_TOKENS]
        key = next_key(parent, ids)
        links.append(Link(key, parent, start, start + len(ids)))
        parent = key
    return links
