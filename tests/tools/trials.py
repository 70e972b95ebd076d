"""The bodies that `hostile.py` sends: each holds an unguarded node up for seconds or minutes.

Sizes are those that once did. A trial makes its bytes when it is begun, in the attacking process.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "a"}]

Body = Callable[[], bytes]


@dataclass(frozen=True)
class Trial:
    """What is sent where, how often at once, and in which coding."""

    name: str
    path: str
    body: Body
    headers: dict[str, str] = field(default_factory=dict)
    keyed: bool = True
    times: int = 1


def of(path: str, name: str, body: Callable[[], Any], **more: Any) -> Trial:
    """A trial with a JSON body."""
    return Trial(name, path, lambda: json.dumps(body()).encode(), **more)


def raw(path: str, name: str, body: Body, **more: Any) -> Trial:
    """A trial with a body that is written out: it would take long to make of values."""
    return Trial(name, path, body, **more)


def bomb() -> bytes:
    """8 GB of zeros in 8 MB: a megabyte that begins anew, again and again."""
    machine = zlib.compressobj(9, wbits=31)
    head = machine.compress(b"")
    piece = machine.compress(bytes(1 << 20)) + machine.flush(zlib.Z_FULL_FLUSH)
    return head + piece * 8000


def members() -> bytes:
    """Half a million gzip members with nothing in them."""
    return gzip.compress(b"") * 500_000


def listed(item: bytes, count: int) -> bytes:
    return b",".join([item] * count)


def lists(field_name: str) -> Body:
    """A field with five million empty lists."""

    def body() -> bytes:
        empty = listed(b"[]", 5_000_000)
        known = {
            "kwargs": b'"chat_template_kwargs":{"a":[%b]}' % empty,
            "tools": b'"tools":[{"type":"function","function":{"name":"f"},"a":[%b]}]' % empty,
        }
        return b'{"messages":[{"role":"user","content":"a"}],%b}' % known[field_name]

    return body


def keys() -> bytes:
    inner = b",".join(b'"%d":"a"' % number for number in range(1_000_000))
    return b'{"input":"a","metadata":{%b}}' % inner


def wrong_end() -> bytes:
    inner = listed(b'{"role":"user","content":"a"}', 400_000)
    return b'{"messages":[%b,7]}' % inner


def parts() -> bytes:
    inner = listed(b'{"type":"text","text":"a"}', 400_000)
    return b'{"messages":[{"role":"user","content":[%b]}]}' % inner


def many_messages() -> bytes:
    return b'{"messages":[%b]}' % listed(b'{"role":"user","content":"a"}', 300_000)


def items() -> Any:
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "a" * 1500}]}
    return {"input": [*([said] * 9000), {"role": "user", "content": "a"}]}


def thoughts() -> Any:
    said = {"role": "assistant", "content": [{"type": "thinking", "thinking": "a" * 1500}] * 9000}
    return {"messages": [said, *HELLO], "max_tokens": 1}


def schema(properties: int) -> dict[str, Any]:
    named = {f"p{number}": {"type": "string"} for number in range(properties)}
    return {"type": "object", "properties": named}


def prompts(count: int, properties: int) -> Any:
    return {
        "prompt": ["a"] * count,
        "max_tokens": 1,
        "structured_outputs": {"json": schema(properties)},
    }


def shaped(shape: dict[str, Any]) -> Any:
    return {
        "messages": HELLO,
        "max_tokens": 4,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": shape}},
    }


def patterns(count: int) -> Any:
    return shaped(
        {
            "type": "object",
            "patternProperties": {f"^x{'(a|b)*' * 6}{number}$": {} for number in range(count)},
        }
    )


def structured(**what: Any) -> Any:
    return {"messages": HELLO, "max_tokens": 4, "structured_outputs": what}


def said(text: str, **more: Any) -> Any:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 1} | more


def _ring() -> Any:
    return shaped({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})


WORD, SPACES = "a" * 15_000_000, " " * 15_000_000
GZIP = {"Content-Encoding": "gzip"}

TRIALS = [
    raw("/health/live", "nothing", lambda: b"{}"),
    raw(CHAT, "gzip bomb without a key", bomb, headers=GZIP, keyed=False),
    raw(CHAT, "gzip bomb", bomb, headers=GZIP),
    raw(CHAT, "500k gzip members", members, headers=GZIP),
    of(COMPLETIONS, "0.25 MB prompts x schema", lambda: prompts(30_000, 4000)),
    raw(COMPLETIONS, "1M prompts", lambda: b'{"prompt":[%b]}' % listed(b'"a"', 1_000_000)),
    of(COMPLETIONS, "72 prompts x 20k properties", lambda: prompts(72, 20_000)),
    raw(CHAT, "kwargs of 5M lists", lists("kwargs")),
    raw(CHAT, "tools of 5M lists", lists("tools")),
    raw("/v1/responses", "metadata of 1M keys", keys),
    raw(CHAT, "wrong type at the end", wrong_end),
    raw(CHAT, "400k text parts", parts),
    raw(CHAT, "300k messages", many_messages),
    of("/v1/responses", "9,000 assistant items", items),
    of("/v1/messages", "9,000 thoughts", thoughts),
    of(CHAT, "schema: a ring", _ring, times=6),
    of(CHAT, "schema: its own ring", lambda: shaped({"$ref": "#"}), times=6),
    of(CHAT, "regex of nothing", lambda: structured(regex="[\\d&&\\D]"), times=6),
    of(
        CHAT,
        "10,000 choices",
        lambda: structured(choice=[f"c{number}" for number in range(10_000)]),
    ),
    of(CHAT, "anyOf of 3,000", lambda: shaped({"anyOf": [schema(3) for _ in range(3000)]})),
    of(CHAT, "96 choices of a large prompt", lambda: said("a" * 15_000_000, n=96)),
    of(CHAT, "15 MB word", lambda: said(WORD)),
    of(CHAT, "15 MB of spaces", lambda: said(SPACES)),
    of("/cache/warm", "warm 15 MB", lambda: {"system_prompt": WORD}),
    of("/v1/messages/count_tokens", "count_tokens of 15 MB", lambda: said(WORD)),
    of("/tokenize", "tokenize 15 MB", lambda: {"prompt": WORD}),
    of(CHAT, "patternProperties x 300", lambda: patterns(300)),
    of(CHAT, "enum of 1M", lambda: shaped({"enum": [f"e{number}" for number in range(1_000_000)]})),
    raw("/detokenize", "detokenize 5M ids", lambda: b'{"tokens":[%b]}' % listed(b"65", 5_000_000)),
]


def named(words: list[str]) -> Iterator[Trial]:
    """The trials with any of these words in their names; all of them without words."""
    return (trial for trial in TRIALS if not words or any(word in trial.name for word in words))
