"""Bodies that are nearly right: a rich valid one of each endpoint, and what may befall it."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SAMPLERS: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 10,
    "min_p": 0.1,
    "seed": 7,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {"70": 1.5},
    "chat_template_kwargs": {"enable_thinking": False},
    "model": "caller",
}
_STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
_LOOK: dict[str, Any] = {"name": "look", "description": "Look there."}
_AT: dict[str, Any] = {"type": "object", "properties": {"at": {"type": "string"}}}
_CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}

VALID: dict[str, dict[str, Any]] = {
    "/chat/completions": _SAMPLERS
    | _STREAMED
    | {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "so",
                "tool_calls": [_CALL],
            },
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
        ],
        "max_tokens": 3,
        "max_completion_tokens": 4,
        "n": 2,
        "stop": ["zzz"],
        "logprobs": True,
        "top_logprobs": 2,
        "reasoning_effort": "low",
        "user": "ann",
        "response_format": {"type": "text"},
        "tools": [{"type": "function", "function": _LOOK | {"parameters": _AT}}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "metadata": {"any": "thing"},
    },
    "/completions": _SAMPLERS
    | _STREAMED
    | {
        "prompt": ["hello", "there"],
        "max_tokens": 4,
        "n": 2,
        "stop": "zzz",
        "echo": True,
        "user": "ann",
        "chat_template_kwargs": None,
    },
    "/responses": _SAMPLERS
    | {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "42"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
            {"role": "user", "content": "and now?"},
        ],
        "instructions": "be brief",
        "tools": [_LOOK | {"type": "function", "parameters": _AT}],
        "parallel_tool_calls": False,
        "max_output_tokens": 4,
        "stream": True,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}},
        "metadata": {"any": "thing"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
        "truncation": "disabled",
    },
    "/messages": _SAMPLERS
    | {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "so", "signature": ""},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "it"}},
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "42"}],
            },
        ],
        "system": [{"type": "text", "text": "be brief"}],
        "max_tokens": 4,
        "stop_sequences": ["zzz"],
        "stream": True,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [_LOOK | {"input_schema": _AT, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "output_config": {"effort": "low"},
        "metadata": {"user_id": "ann"},
    },
    "/messages/count_tokens": {
        "messages": [{"role": "user", "content": "hello"}],
        "system": "be brief",
        "thinking": {"type": "disabled"},
    },
    "/tokenize": {"prompt": "hello", "model": "caller", "add_special_tokens": True},
    "/detokenize": {"tokens": [70, 71, 72], "model": "caller"},
    "/cache/warm": {"system_prompt": "be brief", "model": "caller", "tools": []},
    "/cluster/cache/warm": {"systemPrompt": "be brief", "model": "caller"},
    "/admin/logs/level": {"level": "info"},
}
"""By path, as `openapi.json` has it; the node answers each with 200."""


@dataclass(frozen=True)
class Body:
    """Bytes to send to a path. `odd` is the one field that is, "" where all may be."""

    path: str
    data: bytes
    odd: str = ""
    headers: dict[str, str] = field(default_factory=dict)


# --- what may stand where a value should --------------------------------------------------

_HERE = "@@here@@"
"""Where a text that JSON libraries would not write is to go."""

_DEEP = [1, 10, 63, 64, 65, 200, 1_000, 100_000]
_LONG = [1, 100, 1_001, 20_000, 300_000]

ODD = st.one_of(
    st.sampled_from(
        [
            *("null", "true", "false", "0", "-0", "-1", "1.5", "1e999", "-1e999", "1e-999"),
            *("NaN", "Infinity", "-Infinity", "1e308", "9223372036854775807"),
            *("9223372036854775808", "-9223372036854775809", "18446744073709551616"),
            *('""', '" "', '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\\uffff"', "[]", "{}"),
            *("[null]", "[[]]", "[{}]", '{"":""}', '{"type":"text"}', '[{"type":"text"}]'),
            *("[-1]", "[1e999]", '[""]', "'x'", "undefined", "{", "]", "", "\\", '"\n"', '"\x00"'),
        ]
    ),
    st.integers().map(str),
    st.integers(1, 400).map(lambda digits: "9" * digits),
    st.floats().map(json.dumps),
    st.text(max_size=40).map(json.dumps),
    st.sampled_from(_DEEP).map(lambda depth: "[" * depth + "]" * depth),
    st.sampled_from(_DEEP).map(lambda depth: '{"a":' * depth + "1" + "}" * depth),
    st.sampled_from(_LONG).map(lambda length: json.dumps("x " * length)),
    st.sampled_from(_LONG).map(lambda length: f"[{','.join('1' * length)}]"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=8,
    ).map(json.dumps),
)
"""As it is written. Most are JSON, of a type or a size that nobody meant."""

Place = tuple[str | int, ...]


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Where all values are, those inside others too."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in inside:
        yield (*above, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*above, key))


def _with(value: Any, place: Place, new: Any) -> Any:
    """A copy in which something else is there."""
    key, *rest = place
    changed: Any = list(value) if isinstance(value, list) else dict(value)
    changed[key] = _with(value[key], tuple(rest), new) if rest else new
    return changed


@st.composite
def nearly_valid(draw: st.DrawFn) -> Body:
    """All as it should be, but for one value; or one that is there twice, or not there."""
    path = draw(st.sampled_from([*VALID]))
    place = draw(st.sampled_from([*places(VALID[path])]))
    name, odd = str(place[0]), draw(ODD)
    kind = draw(st.sampled_from(["replaced", "replaced", "replaced", "doubled", "left out"]))
    if kind == "left out":
        rest = {key: value for key, value in VALID[path].items() if key != name}
        return Body(path, json.dumps(rest).encode(), name)
    if kind == "doubled":
        text = json.dumps(VALID[path]).replace("{", f"{{{json.dumps(name)}: {odd}, ", 1)
    else:
        text = json.dumps(_with(VALID[path], place, _HERE)).replace(json.dumps(_HERE), odd)
    return Body(path, text.encode("utf-8", "surrogatepass"), name)


# --- what may happen to bytes -------------------------------------------------------------


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :]


def _cut(data: bytes, at: int, length: int) -> bytes:
    return data[:at] + data[at + length :]


def _ended(data: bytes, at: int, _: int) -> bytes:
    return data[:at]


def _repeated(data: bytes, at: int, length: int) -> bytes:
    return data[:at] + data[at : at + length] + data[at:]


def _inserted(data: bytes, at: int, byte: int) -> bytes:
    return data[:at] + bytes([byte % 256]) + data[at:]


@st.composite
def mutated(draw: st.DrawFn) -> Body:
    """A valid body, a few of whose bytes are others, gone, or there twice."""
    path = draw(st.sampled_from([*VALID]))
    data = json.dumps(VALID[path]).encode()
    for _ in range(draw(st.integers(1, 4))):
        change = draw(st.sampled_from([_flipped, _cut, _ended, _repeated, _inserted]))
        if data:
            data = change(data, draw(st.integers(0, len(data) - 1)), draw(st.integers(0, 300)))
    return Body(path, data)


def _claims(encoding: str, data: bytes) -> tuple[bytes, dict[str, str]]:
    return data, {"Content-Encoding": encoding}


_WRAPPED: dict[str, Callable[[str], tuple[bytes, dict[str, str]]]] = {
    "UTF-16": lambda text: (text.encode("utf-16"), {}),
    "UTF-32": lambda text: (text.encode("utf-32"), {}),
    "Latin-1": lambda text: (text.replace("hello", "h\xe9llo").encode("latin-1"), {}),
    "UTF-8 with a mark": lambda text: (text.encode("utf-8-sig"), {}),
    "UTF-8 that goes too far": lambda text: (
        text.encode().replace(b"hello", b"\xf4\x90\x80\x80"),
        {},
    ),
    "UTF-8 longer than need be": lambda text: (text.encode().replace(b"hello", b"\xc0\xaf"), {}),
    "gzip": lambda text: _claims("gzip", gzip.compress(text.encode())),
    "deflate": lambda text: _claims("deflate", zlib.compress(text.encode())),
    "half a gzip": lambda text: _claims("gzip", gzip.compress(text.encode())[:-12]),
    "no gzip": lambda text: _claims("gzip", text.encode()),
    "no deflate": lambda text: _claims("deflate", text.encode()),
    "an encoding of no name": lambda text: _claims("rot13", text.encode()),
    "more than may be, in a gzip": lambda _: _claims("gzip", gzip.compress(b" " * (20 << 20))),
    "nothing": lambda _: (b"", {}),
    "blanks": lambda _: (b" \n\t ", {}),
    "a list": lambda text: (f"[{text}]".encode(), {}),
    "a text": lambda text: (json.dumps(text).encode(), {}),
    "two of them": lambda text: ((text * 2).encode(), {}),
    "a plain text by its header": lambda text: (text.encode(), {"Content-Type": "text/plain"}),
    "a form by its header": lambda text: (
        text.encode(),
        {"Content-Type": "application/x-www-form-urlencoded"},
    ),
}


def wrapped() -> Iterator[Body]:
    """Each endpoint's body in each wrapping that is not how it should come."""
    for path, valid in VALID.items():
        for wrap in _WRAPPED.values():
            data, headers = wrap(json.dumps(valid, ensure_ascii=False))
            yield Body(path, data, headers=headers)
