"""Messages to bytes and back, whatever the pieces; garbage is said to be garbage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_worker.errors import ProtocolViolation
from mlx_worker.wire.base import WireMessage
from mlx_worker.wire.framing import MAX_FRAME, encode, frames_from_child, frames_to_child
from mlx_worker.wire.kv_blocks import KvBlocks, StoredBlock
from mlx_worker.wire.messages import (
    PROTOCOL,
    CancelGeneration,
    FromChild,
    Gathering,
    Generate,
    Hello,
    Kept,
    Leave,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Ping,
    Pong,
    PrefillProgress,
    RequestFailed,
    Started,
    ToChild,
)
from mlx_worker.wire.output import (
    Done,
    InvalidToolCall,
    PromptScores,
    ReasoningText,
    RowOutput,
    Span,
    StepOutput,
    ToolCall,
)
from mlx_worker.wire.prompt_cache import (
    CacheCleared,
    CacheState,
    ClearCache,
    DiskState,
    PromptWarmed,
    TrimCache,
    Warm,
)
from mlx_worker.wire.rank_place import KeepRank, RankPlace
from mlx_worker.wire.request import ChatRequest, Sampling
from mlx_worker.wire.tokenizing import Detokenize, DetokenizeResult, Tokenize, TokenizeResult
from tests.rounds import rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Ear(Protocol):
    def feed(self, data: bytes) -> Iterator[WireMessage]: ...


HOSTILE = 'quote " back \\ line\nbreak {"a": 1} é 東京 🙂 \u2028 \x00'

REQUEST = ChatRequest(
    messages=[
        {"role": "system", "content": HOSTILE},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "t", "n": 1.5}]},
    ],
    sampling=Sampling(
        seed=2**64 - 1,
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=-0.5,
        frequency_penalty=0.5,
        logit_bias={0: -100.0, 151_643: 2.5},
    ),
    max_tokens=17,
    stop=["\n\n", "END"],
    template_kwargs={"enable_thinking": False},
    tools=[{"type": "function", "function": {"name": "t", "parameters": {"n": [1.5, None]}}}],
    one_call=True,
)

SPANS: list[Span] = [
    HOSTILE,
    ReasoningText(HOSTILE),
    ToolCall("call_1", "look", '{"at": 1}'),
    InvalidToolCall(HOSTILE, "why"),
]

EXAMPLES: dict[type[WireMessage], WireMessage] = {
    type(example): example
    for example in (
        Load(
            "qwen",
            "/models/qwen",
            8,
            None,
            1 << 30,
            1 << 31,
            0.1,
            place=RankPlace(1, 3, "tensor", "192.0.2.1", "ab" * 16, "192.0.2.2:4711"),
        ),
        Generate(1, REQUEST),
        CancelGeneration(2**53 + 1),
        Warm(3, HOSTILE),
        ClearCache(4),
        TrimCache(9, 1 << 20),
        Ping(5),
        Leave(4.5),
        KeepRank("192.0.2.2", {"HF_HUB_OFFLINE": HOSTILE}),
        Hello(PROTOCOL, pid=4711, versions={"mlx": "0.32.4"}),
        Kept(PROTOCOL, port=65_535, problem=HOSTILE),
        Gathering(port=65_535),
        LoadProgress(done=2**33, total=2**34),
        Loaded(context_length=32_768, weight_bytes=2**35, unbatched="", weights="ab" * 32),
        LoadFailed(HOSTILE, permanent=True),
        Started(6, prompt_tokens=100, cached_tokens=64, cache_hit=True),
        PrefillProgress(7, done=512, total=1024),
        PromptScores(3, [b"null", b"null", b"null", b"0"], b"null", True),
        StepOutput([RowOutput(8, [1, 2, 151_643], HOSTILE), RowOutput(9, [], "", [], SPANS)]),
        Done(10, "length", completion_tokens=3, text=HOSTILE, before_text=SPANS, stop_string="END"),
        PromptWarmed(11, tokens=1000),
        CacheCleared(12),
        Tokenize(15, ChatRequest([], Sampling(seed=1), prompt=[1, 151_643])),
        Detokenize(16, [1, 151_643]),
        TokenizeResult(17, 2, b"[1,151643]"),
        DetokenizeResult(18, msgspec.json.encode(HOSTILE)),
        RequestFailed(13, code="internal_error", message=HOSTILE),
        DiskState(
            records=3,
            bytes=2**31,
            total_bytes=2**36,
            capacity=10**11,
            written_today=2**40,
            hits=1,
            misses=2,
            hit_tokens=2**31,
            seconds_saved=1.5,
            quarantined=0,
            corrupt=1,
            evicted_segments=2,
            dropped=3,
            off=HOSTILE,
        ),
        KvBlocks(
            count=3,
            digest=2**64 - 1,
            cleared=True,
            removed=[0, 2**64 - 1],
            stored=[StoredBlock(2**64 - 1, None, b"\0\xff" * 512), StoredBlock(0, 2**64 - 1, b"")],
        ),
        CacheState(1, "ab" * 32, 1.7e12, entries=2, warmed=1, bytes=2**31, capacity=2**32),
        Pong(
            14,
            prefilled_tokens=2**31,
            decode_steps=2**32,
            active=3,
            resident_bytes=2**36,
            device_bytes=2**37,
        ),
    )
}

WAYS: list[tuple[type[WireMessage], Callable[[], Ear]]] = [
    *((kind, frames_to_child) for kind in get_args(ToChild)),
    *((kind, frames_from_child) for kind in get_args(FromChild)),
]

each_message = pytest.mark.parametrize(
    ("kind", "ear"), WAYS, ids=[kind.__name__ for kind, _ in WAYS]
)
each_ear = pytest.mark.parametrize("ear", [frames_from_child, frames_to_child])
FROM_CHILD = [EXAMPLES[kind] for kind in get_args(FromChild)]


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def packed(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


# --- what is said arrives -----------------------------------------------------------------


@each_message
def test_a_message_arrives_as_it_was_said(kind: type[WireMessage], ear: Callable[[], Ear]) -> None:
    assert list(ear().feed(encode(EXAMPLES[kind]))) == [EXAMPLES[kind]]


@each_message
def test_a_message_arrives_with_its_last_byte_and_not_before(
    kind: type[WireMessage], ear: Callable[[], Ear]
) -> None:
    frames = ear()
    *before, last = [bytes([byte]) for byte in encode(EXAMPLES[kind])]
    assert [message for byte in before for message in frames.feed(byte)] == []
    assert list(frames.feed(last)) == [EXAMPLES[kind]]


def test_several_messages_in_one_read_arrive_in_order() -> None:
    data = b"".join(encode(message) for message in FROM_CHILD)
    assert list(frames_from_child().feed(data)) == FROM_CHILD


def test_the_beginning_of_the_next_message_waits_for_its_rest() -> None:
    frames = frames_from_child()
    first, second = encode(CacheCleared(1)), encode(CacheCleared(2))
    assert list(frames.feed(first + second[:6])) == [CacheCleared(1)]
    assert list(frames.feed(second[6:])) == [CacheCleared(2)]


@settings(derandomize=True)
@given(
    said=st.lists(st.sampled_from(FROM_CHILD), max_size=6),
    sizes=st.lists(st.integers(min_value=1, max_value=200), min_size=1, max_size=30),
)
def test_where_the_bytes_are_cut_changes_nothing(said: list[WireMessage], sizes: list[int]) -> None:
    data = b"".join(encode(message) for message in said)
    frames, heard, at = frames_from_child(), list[WireMessage](), 0
    for size in sizes:
        heard += frames.feed(data[at : at + size])
        at += size
    heard += frames.feed(data[at:])
    assert heard == said


# --- garbage ------------------------------------------------------------------------------


@each_ear
@pytest.mark.parametrize("length", [0, MAX_FRAME + 1, 2**32 - 1])
def test_an_impossible_length_is_refused_before_its_payload(
    ear: Callable[[], Ear], length: int
) -> None:
    with pytest.raises(ProtocolViolation, match=rf"{length} bytes.*{MAX_FRAME}"):
        list(ear().feed(length.to_bytes(4, "big")))


@each_ear
def test_the_largest_length_is_waited_for(ear: Callable[[], Ear]) -> None:
    assert list(ear().feed(MAX_FRAME.to_bytes(4, "big") + b"\x80")) == []


@each_message
def test_a_message_of_the_other_direction_is_garbage(
    kind: type[WireMessage], ear: Callable[[], Ear]
) -> None:
    other = frames_from_child() if ear is frames_to_child else frames_to_child()
    with pytest.raises(ProtocolViolation, match="no message"):
        list(other.feed(encode(EXAMPLES[kind])))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\xc1", id="a byte MessagePack never uses"),
        pytest.param(b"\x80", id="an empty map"),
        pytest.param(packed(id=1), id="no tag"),
        pytest.param(packed(**{"is": "Gossip", "id": 1}), id="an unknown tag"),
        pytest.param(packed(**{"is": "CacheCleared"}), id="a missing field"),
        pytest.param(packed(**{"is": "CacheCleared", "id": "1"}), id="a field of another type"),
        pytest.param(packed(**{"is": "Done", "id": 1, "finish": "bored"}), id="an unknown word"),
        pytest.param(encode(CacheCleared(1))[4:-1], id="a message cut short"),
        pytest.param(encode(CacheCleared(1))[4:] + b"\x01", id="a byte too many"),
        pytest.param(b"\x81\xa2is\xa1\xff", id="a tag that is not UTF-8"),
        pytest.param(
            b"\x83\xa2is\xa6Failed\xa2id\x01\xa4code\xa1\xff", id="text that is not UTF-8"
        ),
        pytest.param(b"\x82\xa2is\xa4Step\xa4rows\xdd\xff\xff\xff\xff", id="4 G rows announced"),
        pytest.param(b"\x83\xa2is\xa7Cleared\xa2id\x01\xa1z" + b"\x91" * 100_000, id="a deep nest"),
    ],
)
def test_a_frame_that_is_no_message_is_garbage(payload: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        list(frames_from_child().feed(frame(payload)))


@each_ear
@settings(derandomize=True)
@given(payload=st.binary(min_size=1, max_size=64))
def test_random_bytes_are_a_message_or_garbage(ear: Callable[[], Ear], payload: bytes) -> None:
    try:
        heard = list(ear().feed(frame(payload)))
    except ProtocolViolation:
        return
    assert len(heard) == 1


@settings(derandomize=True, max_examples=rounds(125, 500, 500))
@given(message=st.sampled_from(FROM_CHILD), data=st.data())
def test_a_message_with_one_wrong_byte_is_a_message_or_garbage(
    message: WireMessage, data: st.DataObject
) -> None:
    payload = bytearray(encode(message)[4:])
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        heard = list(frames_from_child().feed(frame(bytes(payload))))
    except ProtocolViolation:
        return
    assert len(heard) == 1


@each_ear
@settings(derandomize=True)
@given(noise=st.binary(max_size=64))
def test_noise_without_frames_waits_or_is_garbage(ear: Callable[[], Ear], noise: bytes) -> None:
    frames = ear()
    try:
        for byte in noise:
            list(frames.feed(bytes([byte])))
    except ProtocolViolation:
        assert len(noise) >= 4


def test_what_was_said_before_the_garbage_is_heard() -> None:
    frames = frames_from_child().feed(
        encode(CacheCleared(1)) + frame(b"\xc1") + encode(CacheCleared(2))
    )
    assert next(frames) == CacheCleared(1)
    with pytest.raises(ProtocolViolation):
        next(frames)


def test_nothing_is_believed_after_garbage() -> None:
    frames = frames_from_child()
    with pytest.raises(ProtocolViolation):
        list(frames.feed(frame(b"\xc1")))
    with pytest.raises(ProtocolViolation):
        list(frames.feed(encode(CacheCleared(1))))


# --- what cannot be said ------------------------------------------------------------------


def test_the_frame_limit_is_exact() -> None:
    overhead = len(encode(Warm(1, "x" * 2**16))) - 4 - 2**16
    longest = "x" * (MAX_FRAME - overhead)
    assert len(encode(Warm(1, longest))) == 4 + MAX_FRAME
    with pytest.raises(ValueError, match=rf"{MAX_FRAME + 1} bytes.*{MAX_FRAME}"):
        encode(Warm(1, longest + "x"))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(CancelGeneration(2**64), id="an integer over 64 bits"),
        pytest.param(Warm(1, "\ud800"), id="half a surrogate pair"),
    ],
)
def test_a_value_that_messagepack_cannot_hold_is_a_value_error(message: WireMessage) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        encode(message)
