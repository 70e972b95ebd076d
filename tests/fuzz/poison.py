"""Bodies that mean harm: what each kind of them looks like, from a seed and a number alone."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Json = Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
TOKENIZE, DETOKENIZE, COUNT = "/tokenize", "/detokenize", "/v1/messages/count_tokens"

PATTERNS = (
    r"[^\s\S]",
    r"[\d&&\D]",
    "[a&&b]",
    "(a{1,1000}b{1,1000}){1,1000}",
    "(.*a.{20}){3}",
    "((a|b|c)*d){500}",
    r"(\p{L}|\p{N}){200}",
    "(?=a)b",
    "a(b",
    "^a$b^",
    "",
    "(((((((((((((((((((a*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*)*",
    r"\x{110000}",
    r"(?i)straße|\bword\b",
    "a{99999999}",
    "\\",
    "[\\s\\S]*x[\\s\\S]{60}y",
)
GRAMMARS = (
    "start: start",
    "start: a\na: a",
    "start: a\na: b\nb: a",
    'start: a\na: a a a | a a | "" | /[a-z]/',
    'start: a\na: a a | "x" | "y" | /[a-z]+/',
    "start: @answer",
    "start: @content",
    "start: @nothing",
    '{"grammars": [1, 2]}',
    '{"grammars": []}',
    'start: "a"{1,100000}',
    'start: %json {"$ref": "#"}',
    'start: %json {"type": "object", "properties": {"a": {"pattern": "[^\\\\s\\\\S]"}}}',
    "start: <[99999999]>",
    "start: <|im_end|>",
    'x: "a"',
    "start: nothing",
    'root ::= "yes" | "no"',
    "start[capture, max_tokens=0]: /.*/",
    '%ignore /.*/\nstart: "a"',
    "\x00",
    "start: /a&b/ \ud83d\ude00",
)
TEXTS = (
    "\ud800",
    "\udfff tail",
    "\x00\x01\x02",
    "<|im_start|>system\n<|im_end|>" * 50,
    "".join(map(chr, range(0xE000, 0xE200))),
    "\u202e\u0301" * 300,
    "\N{SKULL}\u200d" * 300,
    "ﷺ" * 400,
    "<think></think><tool_call></tool_call>" * 40,
    "{{ messages }}{% for a in b %}",
    "\ufffe\uffff\U0010ffff",
)


@dataclass(frozen=True)
class Poison:
    """One body, where it goes, and what kind of harm it means."""

    kind: str
    path: str
    data: bytes


def poison(seed: int, number: int) -> Poison:
    """The body of this number."""
    chance = random.Random(f"{seed} {number}")
    kind = list(KINDS)[number % len(KINDS)]
    path, body = KINDS[kind](chance)
    return Poison(kind, path, json.dumps(body).encode())


# --- how each dialect says it -------------------------------------------------------------


def hello(chance: random.Random, path: str) -> dict[str, Json]:
    """A body that is answered with a few tokens."""
    turns = [{"role": "user", "content": "hello"}]
    streamed = {"stream": chance.random() < 0.3}
    match path:
        case "/v1/completions":
            return {"prompt": "hello", "max_tokens": 4} | streamed
        case "/v1/responses":
            return {"input": "hello", "max_output_tokens": 4} | streamed
        case _:
            return {"messages": turns, "max_tokens": 4} | streamed


def shaped(chance: random.Random, schema: Json) -> tuple[str, Json]:
    path = chance.choice((CHAT, COMPLETIONS, RESPONSES, MESSAGES))
    body = hello(chance, path)
    match path:
        case "/v1/chat/completions":
            format_ = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
            body["response_format"] = format_
            body["n"] = chance.choice((1, 1, 2, 8))
        case "/v1/responses":
            body["text"] = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
        case "/v1/messages":
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        case _:
            body["structured_outputs"] = {"json": schema}
    return path, body


def bound(chance: random.Random, **extension: Json) -> tuple[str, Json]:
    path = chance.choice((CHAT, COMPLETIONS, RESPONSES, MESSAGES))
    return path, hello(chance, path) | {"structured_outputs": extension}


def called(chance: random.Random, schema: Json) -> tuple[str, Json]:
    if chance.random() < 0.5:
        tool: Json = {"type": "function", "function": {"name": "get", "parameters": schema}}
        extra: Json = {"tools": [tool], "tool_choice": "required"}
        return CHAT, hello(chance, CHAT) | extra
    tool = {"name": "get", "input_schema": schema}
    return MESSAGES, hello(chance, MESSAGES) | {"tools": [tool], "tool_choice": {"type": "any"}}


# --- schemas ------------------------------------------------------------------------------


def nasty_schema(chance: random.Random, depth: int = 0) -> Json:
    """A schema that rings, explodes, contradicts itself or is none."""
    if depth < 3 and chance.random() < 0.4:
        inner = [nasty_schema(chance, depth + 1) for _ in range(chance.randint(1, 3))]
        return chance.choice(
            (
                {"anyOf": inner},
                {"allOf": inner},
                {"oneOf": inner},
                {"type": "array", "items": inner[0], "minItems": chance.choice((0, 1, 10**9))},
                {"type": "object", "properties": {"a": inner[0]}, "required": ["a"]},
                {"$defs": {"n": inner[0]}, "$ref": "#/$defs/n"},
                {"not": inner[0]},
            )
        )
    count = chance.choice((3, 60, 250, 700))
    return chance.choice(
        (
            {"$ref": "#"},
            {"$defs": {"n": {"$ref": "#/$defs/n"}}, "$ref": "#/$defs/n"},
            {"$ref": "https://example.com/schema.json"},
            {"type": "object", "properties": {"n": {"$ref": "#"}}, "required": ["n"]},
            {"type": "string", "pattern": chance.choice(PATTERNS)},
            {"type": "object", "patternProperties": several(count, chance)},
            {"properties": {f"k{i}": {"pattern": f"{i}[a-z]{{1,50}}x"} for i in range(count)}},
            {"allOf": [{"type": "string", "pattern": f".*{i}.*"} for i in range(count // 10)]},
            {"anyOf": [{"type": "object", "properties": {f"k{i}": {}}} for i in range(count)]},
            {"enum": [f"value {i}" for i in range(count * 40)]},
            {"enum": []},
            {"type": "integer", "minimum": -(2**63), "maximum": 2**62},
            {"type": "number", "maximum": 1e308, "minimum": -1e308},
            {"type": "integer", "multipleOf": chance.choice((0, 99999, 1e-300, -1))},
            {"type": "string", "minLength": 10**9},
            {"type": "string", "maxLength": 2**63},
            {"type": "string", "format": chance.choice(("date-time", "uuid", "moon", ""))},
            {"type": chance.choice((5, None, "nothing", [], ["string", "null"]))},
            {"properties": [], "required": "a"},
            {"type": "object", "properties": {f"p{i}": {} for i in range(count * 8)}},
            {"uniqueItems": True, "type": "array"},
            {"const": {"a": [None, True, "\u0000", 1e300]}},
            {},
        )
    )


def several(count: int, chance: random.Random) -> Json:
    if chance.random() < 0.5:
        return {f"^k{i}[a-z]*$": {"pattern": f"^{i}[a-z]{{1,50}}x"} for i in range(count)}
    return {f"[a-z]{{0,{i}}}x[a-z]*{i}": {} for i in range(count)}


# --- everything else ----------------------------------------------------------------------


def regexes(chance: random.Random) -> tuple[str, Json]:
    parts = chance.choices(PATTERNS, k=chance.randint(1, 3))
    return bound(chance, regex=chance.choice(("", "|", ".*")).join(parts))


def grammars(chance: random.Random) -> tuple[str, Json]:
    if chance.random() < 0.3:
        both = " & ".join(f"/.*a{i}.*/" for i in range(chance.choice((5, 12, 18, 40))))
        return bound(chance, grammar=f"start: A\nA: {both}")
    return bound(chance, grammar=chance.choice(GRAMMARS))


def choices(chance: random.Random) -> tuple[str, Json]:
    count = chance.choice((0, 1, 3000, 10_000, 60_000))
    return bound(chance, choice=[f"choice {i}" for i in range(count)])


def template_arguments(chance: random.Random) -> tuple[str, Json]:
    deep: Json = []
    for _ in range(chance.choice((1, 30, 200))):
        deep = [deep]
    value: Json = chance.choice(
        (deep, [[]] * 50_000, "x" * 300_000, {"a": None}, 1e308, True, "\ud800")
    )
    names = ("enable_thinking", "tokenize", "messages", "tools", "add_generation_prompt", "x")
    path = chance.choice((CHAT, RESPONSES, MESSAGES, COUNT))
    body = hello(chance, path) | {"chat_template_kwargs": {chance.choice(names): value}}
    return path, body


def token_ids(chance: random.Random) -> tuple[str, Json]:
    count = chance.choice((0, 1, 300, 200_000))
    ids: Json = [chance.choice((0, 1, 5, 999)) for _ in range(count)]
    if chance.random() < 0.4:
        ids = [*ids, chance.choice((-1, 2**31, 2**63, 2**70, 1.5, None, "a"))]
    if chance.random() < 0.4:
        return DETOKENIZE, {"tokens": ids}
    body = hello(chance, COMPLETIONS) | {"prompt": ids}
    if chance.random() < 0.3:
        body["logit_bias"] = {str(chance.choice((-1, 5, 10**9))): chance.choice((5, 1e308))}
    return COMPLETIONS, body


def texts(chance: random.Random) -> tuple[str, Json]:
    text = chance.choice(TEXTS)
    path = chance.choice((CHAT, COMPLETIONS, RESPONSES, MESSAGES, TOKENIZE, COUNT))
    if path == TOKENIZE:
        return path, {"prompt": text}
    body = hello(chance, path)
    if path == COMPLETIONS:
        return path, body | {"prompt": text, "stop": [text[:20]]}
    if path == RESPONSES:
        return path, body | {"input": text}
    turns: Json = [{"role": "user", "content": text}]
    if chance.random() < 0.3:
        turns = [{"role": chance.choice(("system", "user", text[:9])), "content": text}, *turns]
    return path, body | {"messages": turns}


def sizes(chance: random.Random) -> tuple[str, Json]:
    path = chance.choice((CHAT, COMPLETIONS, MESSAGES, TOKENIZE, COUNT))
    text = chance.choice(("a", " ", "word ", "\u00e9", "\n", "ab1! ")) * chance.choice(
        (2000, 60_000, 600_000)
    )
    if path == TOKENIZE:
        return path, {"prompt": text}
    body = hello(chance, path)
    match chance.randrange(5):
        case 0:
            turns: Json = [{"role": "user", "content": "hello"}] * chance.choice((400, 20_000))
            body["messages"] = turns
        case 1:
            part = {"type": "text", "text": "ab "}
            parts = [part] * chance.choice((300, 20_000))
            body["messages"] = [{"role": "user", "content": parts}]
        case 2 if path == COMPLETIONS:
            body["prompt"] = ["hello"] * chance.choice((3, 5000))
            body["n"] = chance.choice((1, 4))
        case _ if path == COMPLETIONS:
            body["prompt"] = text
        case _:
            body["messages"] = [{"role": "user", "content": text}]
    return path, body


KINDS: dict[str, Callable[[random.Random], tuple[str, Json]]] = {
    "schema": lambda chance: shaped(chance, nasty_schema(chance)),
    "regex": regexes,
    "grammar": grammars,
    "tool": lambda chance: called(chance, nasty_schema(chance)),
    "choice": choices,
    "template arguments": template_arguments,
    "token ids": token_ids,
    "text": texts,
    "size": sizes,
    "schema again": lambda chance: shaped(chance, nasty_schema(chance)),
}
