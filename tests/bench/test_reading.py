"""What servers send, read however it was cut: chunked or not, events of all the dialects."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.bench.answer import read_answer
from mlx_worker.bench.response import ResponseReader
from mlx_worker.bench.sse import EventReader

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
USAGE = (
    b'"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,'
    b'"prompt_tokens_details":{"cached_tokens":5}}'
)
EVENTS = (
    b': keepalive 1/2\n\ndata: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"caf\xc3\xa9"}}]}\n\n',
    b'data: {"choices":[{"delta":{"reasoning_content":" so"}}]}\r\n\r\n',
    b'event: x\ndata:{"choices":[{"delta":{"content":" on"},"finish_reason":"length"}]}\n\n',
    b"data: {%s}\n\n" % USAGE,
    b"data: [DONE]\n\n",
)
PLAIN = HEAD + b"\r\n" + b"".join(EVENTS)
CHUNKED = (
    HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS)
    + b"0\r\n\r\n"
)


def cut(data: bytes, places: list[int]) -> list[tuple[float, bytes]]:
    """The bytes in pieces; the n-th arrives in second n."""
    ends = sorted({0, len(data), *(place % len(data) for place in places)})
    return [(float(i), data[a:b]) for i, (a, b) in enumerate(pairwise(ends), 1)]


@pytest.mark.parametrize("data", [PLAIN, CHUNKED], ids=["plain", "chunked"])
@given(places=st.lists(st.integers(0, 10_000)))
def test_an_answer_is_the_same_however_it_was_cut(data: bytes, places: list[int]) -> None:
    answer = read_answer(0.0, 99.0, cut(data, places), stream=True)
    assert answer.text == "café so on"
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (7, 3, 5)
    assert answer.complete
    assert answer.complaint == ""
    assert len(answer.texts) in (1, 2, 3)


@pytest.mark.parametrize("data", [PLAIN, CHUNKED], ids=["plain", "chunked"])
def test_byte_by_byte_each_text_has_the_time_of_its_last_byte(data: bytes) -> None:
    arrivals = cut(data, list(range(len(data))))
    answer = read_answer(0.0, 99.0, arrivals, stream=True)
    text_ends = [
        float(data.index(mark) + len(mark))
        for mark in (b'caf\xc3\xa9"}}]}\n\n', b'so"}}]}\r\n\r\n', b'"length"}]}\n\n')
    ]
    assert answer.texts == text_ends
    assert answer.ttft == text_ends[0]
    assert answer.gaps == [b - a for a, b in pairwise(text_ends)]


def test_texts_that_arrive_together_are_one_arrival() -> None:
    answer = read_answer(0.0, 99.0, [(1.0, PLAIN)], stream=True)
    assert answer.texts == [1.0]
    assert answer.gaps == []


def test_gaps_within_a_stretch_are_those_that_touch_it() -> None:
    answer = read_answer(0.0, 99.0, cut(PLAIN, []), stream=True)
    answer.texts = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert answer.gaps_within(3.0, 5.0) == [2.0, 4.0]


def test_a_stream_that_just_ends_is_a_complaint() -> None:
    short = PLAIN[: PLAIN.index(b"data: [DONE]")]
    answer = read_answer(0.0, 99.0, [(1.0, short)], stream=True)
    assert not answer.complete
    assert "ended after" in answer.complaint


def test_an_error_in_mid_stream_is_the_complaint() -> None:
    broken = PLAIN[: PLAIN.index(b"event: x")] + b'data: {"error":{"message":"gone"}}\n\n'
    answer = read_answer(0.0, 99.0, [(1.0, broken)], stream=True)
    assert answer.complaint == "gone"
    assert answer.text == "café so"


def test_a_refusal_is_the_complaint() -> None:
    refusal = b"HTTP/1.1 429 Too Many\r\n\r\n{busy}"
    answer = read_answer(0.0, 99.0, [(1.0, refusal)], stream=True)
    assert answer.complaint == "HTTP status 429: {busy}"


def test_silence_is_a_complaint() -> None:
    answer = read_answer(0.0, 99.0, [], stream=True)
    assert answer.complaint == "the connection was closed before anything was answered"


def test_an_answer_in_one_piece_is_read_whole() -> None:
    body = (
        b'{"choices":[{"message":{"content":"yes"}}],'
        b'"usage":{"prompt_tokens":7,"completion_tokens":1}}'
    )
    answer = read_answer(0.0, 9.0, [(8.0, b"HTTP/1.0 200 OK\r\n\r\n" + body)], stream=False)
    assert (answer.text, answer.completion_tokens, answer.cached_tokens) == ("yes", 1, None)
    assert answer.complete


def test_several_data_lines_are_one_event() -> None:
    assert EventReader().feed(b"data: a\ndata: b\n\n") == [b"a\nb"]


def test_chunks_with_extensions_are_chunks() -> None:
    reader = ResponseReader()
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n"
    assert reader.feed(head + b"3;x=1\r\nabc\r\n1\r\nd\r\n0\r\n\r\n") == b"abcd"
