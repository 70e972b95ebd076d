"""Turns as records on disk: the tokens that an answer was sampled as, and where the answer begins.

The address of such a record is a hash of everything in the record. What a record says is believed
only where the hash is right, and is compared by meaning with the text of each prompt later. Pure.
[child]
"""

from __future__ import annotations

import hashlib
import struct
from itertools import chain
from typing import TYPE_CHECKING, Final

from mlx_worker.engine.history.memory import DIGEST_BYTES, MAX_LEAD, SampledTurn, TurnPlace
from mlx_worker.kv_disk.files.keys import KEY_BYTES
from mlx_worker.kv_disk.files.payload import ArrayBytes, BadRecord, Dtype, LayerBytes, LayerFamily
from mlx_worker.kv_disk.files.records import Address, Kind, Record

if TYPE_CHECKING:
    from mlx_worker.kv_disk.files.keys import KvIdentity
    from mlx_worker.kv_disk.files.payload import Payload

MAX_TOKENS: Final = 1 << 20
"""Tokens of a turn that is written."""

MAX_TEXT: Final = 1 << 20
"""Bytes of each text of a turn that is written."""

_PERSON: Final = b"mlxworker-turn-1"
_NO_PARENT: Final = bytes(KEY_BYTES)
_LENGTH: Final = struct.Struct("<I")
_TOKEN_BYTES: Final = 4
_PARTS: Final = 6


def address_of(identity: KvIdentity, turn: SampledTurn) -> Address:
    """Return where a turn is found."""
    return _address(identity, _parts_of(turn))


def record_of(identity: KvIdentity, turn: SampledTurn) -> Record | None:
    """Return the record of a turn; None for a turn that is longer than any on disk.

    The record saves no seconds by itself, so that the record goes when its neighbours' KV goes.
    """
    parts = _parts_of(turn)
    *texts, tokens = parts
    count = len(tokens) // _TOKEN_BYTES
    if count > MAX_TOKENS or max(map(len, texts)) > MAX_TEXT:
        return None
    arrays = [ArrayBytes(Dtype.UINT8, (len(text),), text) for text in texts]
    arrays.append(ArrayBytes(Dtype.UINT32, (count,), tokens))
    payload = (LayerBytes(LayerFamily.TURN, (), tuple(arrays)),)
    address = _address(identity, parts)
    return Record(address, _NO_PARENT, start=0, stop=count, seconds=0.0, payload=payload)


def turn_of(identity: KvIdentity, address: Address, payload: Payload) -> SampledTurn:
    """Return the turn of a record. Raises BadRecord for anything but what `record_of` makes."""
    is_turn = len(payload) == 1 and payload[0].family is LayerFamily.TURN
    arrays = payload[0].arrays if is_turn else ()
    dtypes = [None if array is None else array.dtype for array in arrays]
    if dtypes != [Dtype.UINT8] * (_PARTS - 1) + [Dtype.UINT32]:
        raise BadRecord("no turn")
    parts = tuple(bytes(array.data) for array in arrays if array is not None)
    if _address(identity, parts) != address:
        raise BadRecord("the turn has another hash")
    *texts, digest, tokens = parts
    if len(digest) != DIGEST_BYTES or not 0 < len(tokens) <= MAX_TOKENS * _TOKEN_BYTES:
        raise BadRecord("a part of the turn has an impossible size")
    try:
        anchor, lead, state, stop = (text.decode("utf-8", "surrogatepass") for text in texts)
    except UnicodeDecodeError:
        raise BadRecord("a text of the turn is no text") from None
    if not anchor or len(lead) > MAX_LEAD:
        raise BadRecord("a text of the turn has an impossible size")
    return SampledTurn(TurnPlace(anchor, digest, lead, state), tokens, stop)


def _parts_of(turn: SampledTurn) -> tuple[bytes, ...]:
    place = turn.place
    texts = (place.anchor, place.lead, place.state, turn.stop)
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    return (*encoded, place.digest, turn.tokens)


def _address(identity: KvIdentity, parts: tuple[bytes, ...]) -> Address:
    digest = hashlib.blake2b(identity.seed, digest_size=KEY_BYTES, person=_PERSON)
    for part in chain.from_iterable((_LENGTH.pack(len(part)), part) for part in parts):
        digest.update(part)
    return Address(Kind.TURN, digest.digest())
