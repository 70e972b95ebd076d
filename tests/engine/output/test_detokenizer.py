"""Tokens to text: every byte that the model says, whatever the vocabulary's spelling."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import (
    BPEStreamingDetokenizer,
    NaiveStreamingDetokenizer,
    SPMStreamingDetokenizer,
    TokenizerWrapper,
)
from mlx_lm.tool_parsers import qwen3_coder
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mlx_worker.engine.output.markers import Markers
from mlx_worker.engine.output.text_stream import TextStream
from mlx_worker.engine.output.token_bytes import token_bytes
from tests.engine.text_harness import request, text_of
from tests.rounds import rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

END = "<|end▁é|>"
TEXTS = [
    "fox",
    " fox ran",
    "  fox",
    "    return x",
    "\n    return",
    " ",
    "",
    "é 東京 🙂",
    "\x00nul",
    "�",
]


def byte_level() -> Any:
    """A token a byte, one special token with letters beyond the byte alphabet."""
    made = Tokenizer(models.BPE(unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.add_tokens(alphabet)
    data = json.loads(made.to_str())
    data["added_tokens"] = []
    data["model"]["vocab"] = {token: i for i, token in enumerate(alphabet)}
    made = Tokenizer.from_str(json.dumps(data))
    made.add_special_tokens([AddedToken(END, special=True)])
    return wrapped(made, BPEStreamingDetokenizer)


def sentencepiece() -> Any:
    """A token a byte, and a word with its space."""
    words = ["▁", "▁fox", "fox", "a"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocabulary |= {word: 256 + i for i, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrapped(made, SPMStreamingDetokenizer)


def unknown() -> Any:
    """The same vocabulary, of which mlx_lm does not recognise the spelling."""
    return wrapped(sentencepiece().backend_tokenizer, NaiveStreamingDetokenizer)


def wrapped(tokenizer: Tokenizer, detokenizer: Any) -> Any:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    return TokenizerWrapper(fast, detokenizer)


def by_bytes(tokenizer: Any, text: str) -> list[int]:
    """A token a byte."""
    if isinstance(tokenizer.detokenizer, BPEStreamingDetokenizer):
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids
    return [256 if byte == ord(" ") else byte for byte in text.encode()]


def said(tokenizer: Any, tokens: Iterable[int], *, prompt: str | None = None) -> str:
    """All that one answer says, released token by token."""
    asked = request() if prompt is None else request(prompt=prompt)
    follows = [] if prompt is None else by_bytes(tokenizer, prompt)
    stream = TextStream(Markers(tokenizer), asked, "normal", follows)
    told = "".join(text_of(stream.add(token)) for token in tokens)
    return told + text_of(stream.finish("length"))


KINDS = {"byte level": byte_level, "sentencepiece": sentencepiece, "unknown": unknown}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@every_kind
@pytest.mark.parametrize("text", TEXTS)
def test_completion_of_a_raw_prompt_keeps_its_first_space(
    make: Callable[[], Any], text: str
) -> None:
    tokenizer = make()
    assert said(tokenizer, by_bytes(tokenizer, text), prompt="the old") == text


@every_kind
@pytest.mark.parametrize("text", TEXTS)
def test_answer_to_a_chat_begins_without_the_first_space(
    make: Callable[[], Any], text: str
) -> None:
    tokenizer = make()
    assert said(tokenizer, by_bytes(tokenizer, text)) == text.removeprefix(" ")


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
@settings(max_examples=rounds(15, 60, 60))
@given(data=st.binary(max_size=12))
def test_bytes_in_any_order_are_the_text_that_utf_8_makes_of_them(
    make: Callable[[], Any], data: bytes
) -> None:
    """Also where a model writes no UTF-8: bytes that fit nothing are replacement characters."""
    tokenizer = make()
    spelled = token_bytes(tokenizer)
    assert spelled is not None
    tokens = [spelled.index(bytes([byte])) for byte in data]
    assert said(tokenizer, tokens, prompt="x") == data.decode("utf-8", "replace")


def test_byte_0_is_text_where_mlx_lm_has_none() -> None:
    """When mlx_lm's has it too, it may have become exact: look whether ours is needed."""
    tokenizer = byte_level()
    tokens = by_bytes(tokenizer, "a\x00b")
    theirs = tokenizer.detokenizer
    for token in tokens:
        theirs.add_token(token)
    theirs.finalize()
    assert theirs.text != "a\x00b"
    assert said(tokenizer, tokens) == "a\x00b"


def test_an_id_beyond_the_vocabulary_has_no_text() -> None:
    tokenizer = byte_level()
    assert said(tokenizer, [*by_bytes(tokenizer, "a"), len(tokenizer) + 5]) == "a"


@every_kind
def test_the_text_of_tokens_and_their_bytes_add_up_to_the_answer(make: Callable[[], Any]) -> None:
    tokenizer = make()
    markers = Markers(tokenizer)
    tokens = by_bytes(tokenizer, " a🙂")
    parts = [markers.text_of(token) for token in tokens]
    if make is not unknown:
        assert b"".join(data for _, data in parts) == " a🙂".encode()
        assert [text for text, _ in parts] == [" ", "a", "�", "�", "�", "�"]


def test_a_special_token_that_is_not_shown_adds_nothing() -> None:
    tokenizer = byte_level()
    assert Markers(tokenizer).text_of(tokenizer.convert_tokens_to_ids(END)) == (END, b"")


def test_mlx_lm_still_reads_integers_by_way_of_a_float() -> None:
    """When this fails, mlx_lm's parsers may have become exact: look whether ours are needed."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": "look",
                "parameters": {"properties": {"a": {"type": "integer"}}},
            },
        }
    ]
    text = "<function=look><parameter=a>1234567890123456789</parameter></function>"
    assert qwen3_coder.parse_tool_call(text, tools)["arguments"]["a"] != 1234567890123456789
