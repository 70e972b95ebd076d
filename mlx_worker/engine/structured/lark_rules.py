"""The rules of a request's own Lark grammar: which of them no finite text fits.

An answer that enters such a rule runs into its token limit, or comes to a point where nothing may
follow. A grammar that this reader does not understand passes: llguidance reports its errors.
[child]
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|\#[^\n]*|(?m:^)[?!]+(?=[a-z_]))
    |(?P<text>"(?:[^"\\\n]|\\.)*"i?|<[^>\n]+>|@[\w-]+)
    |(?P<regex>/(?:[^/\\\n]|\\.)+/[a-z]*)
    |(?P<inline>%(?:json|regex|lark)\s*(?=\{))
    |(?P<settings>%llguidance\s*(?=\{))
    |(?P<line>%(?:import|ignore|declare)\b[^\n]*)
    |(?P<alias>->\s*\w+)
    |(?P<number>\d+)
    |(?P<name>_?[A-Za-z]\w*)
    |(?P<sign>\.\.|[|()\[\]{}?*+~&:,.=-])""",
    re.VERBOSE,
)

MOST_ATOMS: Final = 30
"""Terminals and regexes of one grammar that are tried by themselves."""

MOST_TOKENS: Final = 1000
"""Of a grammar that is read: the work may grow with the square of this number."""

_Expression = tuple[str, list[Any]]
"""The kind of a part ("any" of several, "all" of them, a "name", "free"), and its parts or name."""

_FREE: Final[_Expression] = ("free", [])


class _NotUnderstoodError(Exception):
    """Report that the grammar has something that is not supported here."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int


@dataclass(slots=True)
class LarkRules:
    """Hold the rules of a grammar by name, and the places of the name `start` in the text."""

    grammar: str
    rules: dict[str, _Expression] = field(default_factory=dict)
    atoms: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def endless_rule(self) -> str | None:
        """Return a rule within reach of `start` that no finite text fits; None where all end."""
        waiting = set(self.rules)
        while ended := {name for name in waiting if self._ends(self.rules[name], waiting)}:
            waiting -= ended
        return min(waiting & self._within_reach(), default=None)

    def trials(self) -> list[tuple[str, str]]:
        """Return each terminal and regex with a grammar of its own; none where there are many."""
        if len(self.atoms) > MOST_ATOMS:
            return []
        renamed = self.grammar
        for start in reversed(self.starts):
            renamed = f"{renamed[:start]}start_of_all{renamed[start + len('start') :]}"
        return [(atom, f"{renamed}\nstart: {atom}\n") for atom in self.atoms]

    def _ends(self, expression: _Expression, waiting: set[str]) -> bool:
        kind, parts = expression
        match kind:
            case "name":
                return parts[0] not in waiting
            case "any":
                return any(self._ends(part, waiting) for part in parts)
            case "all":
                return all(self._ends(part, waiting) for part in parts)
        return True

    def _within_reach(self) -> set[str]:
        reached: set[str] = set()
        ahead = ["start"]
        while ahead:
            name = ahead.pop()
            if name in self.rules and name not in reached:
                reached.add(name)
                ahead += _names(self.rules[name])
        return reached


def read_rules(grammar: str) -> LarkRules:
    """Read the rules of a grammar; a grammar that is not understood has none."""
    try:
        return _Reader(grammar).read()
    except (_NotUnderstoodError, ValueError, RecursionError):
        return LarkRules(grammar)


def _names(expression: _Expression) -> list[str]:
    kind, parts = expression
    if kind == "name":
        return list(parts)
    return [name for part in parts for name in _names(part)] if kind in ("any", "all") else []


def _tokens(grammar: str) -> list[_Token]:
    tokens, place = [], 0
    while place < len(grammar):
        match = _TOKEN.match(grammar, place)
        if match is None:
            raise _NotUnderstoodError
        kind, end = match.lastgroup or "", match.end()
        if kind in ("inline", "settings"):
            try:
                _, end = json.JSONDecoder().raw_decode(grammar, end)
            except ValueError as error:
                raise _NotUnderstoodError from error
        if kind not in ("skip", "settings", "line", "alias"):
            tokens.append(_Token(kind, grammar[place:end], place))
            if len(tokens) > MOST_TOKENS:
                raise _NotUnderstoodError
        place = end
    return tokens


class _Reader:
    """Read definitions one after the other, with one token of look-ahead."""

    def __init__(self, grammar: str) -> None:
        self._found = LarkRules(grammar)
        self._tokens = _tokens(grammar)
        self._at = 0
        self._in_rule = False

    def read(self) -> LarkRules:
        while self._at < len(self._tokens):
            begin = self._definition(self._at)
            if begin is None:
                raise _NotUnderstoodError
            name = self._tokens[self._at].text
            self._at = begin
            self._in_rule = not name.isupper()
            expression = self._alternatives()
            if self._in_rule:
                self._found.rules[name] = expression
        self._found.starts = [token.start for token in self._tokens if token.text == "start"]
        self._found.atoms = list(dict.fromkeys(self._found.atoms))
        return self._found

    def _definition(self, at: int) -> int | None:
        """Return where the body of the definition that begins here begins; None: there is none."""
        if self._kind(at) != "name":
            return None
        at += 1
        if self._text(at) == "[":
            while self._text(at) not in ("]", ""):
                at += 1
            at += 1
        if self._text(at) == "." and self._kind(at + 1) == "number":
            at += 2
        return at + 1 if self._text(at) == ":" else None

    def _alternatives(self) -> _Expression:
        alternatives = [self._sequence()]
        while self._text(self._at) == "|":
            self._at += 1
            alternatives.append(self._sequence())
        return ("any", alternatives)

    def _sequence(self) -> _Expression:
        parts = []
        while self._kind(self._at) != "sign" or self._text(self._at) in ("(", "[", "~", "&"):
            if self._kind(self._at) == "" or self._definition(self._at) is not None:
                break
            if self._text(self._at) in ("~", "&"):  # of terminals, which are tried as a whole
                self._at += 1
                continue
            parts.append(self._repeated(self._atom()))
        return ("all", parts)

    def _atom(self) -> _Expression:
        token = self._tokens[self._at]
        self._at += 1
        if token.text in ("(", "["):
            inside = self._alternatives()
            if self._text(self._at) != {"(": ")", "[": "]"}[token.text]:
                raise _NotUnderstoodError
            self._at += 1
            return inside if token.text == "(" else _FREE
        if token.kind == "name" and not token.text.isupper():
            return ("name", [token.text])
        if token.kind not in ("text", "name", "regex", "inline"):
            raise _NotUnderstoodError
        if self._in_rule and token.kind != "text":  # what terminals are made of may well be nothing
            self._found.atoms.append(token.text)
        if self._text(self._at) == "..":
            self._at += 2
        return _FREE

    def _repeated(self, expression: _Expression) -> _Expression:
        """Read a repetition; a part that may be left out has a finite text."""
        sign = self._text(self._at)
        if sign in ("?", "*", "+"):
            self._at += 1
            return expression if sign == "+" else _FREE
        if sign == "~" and self._kind(self._at + 1) == "number":
            least = int(self._text(self._at + 1))
            self._at += 2
            if self._text(self._at) == "..":
                self._at += 2
            return expression if least else _FREE
        if sign == "{":
            least = int(self._text(self._at + 1)) if self._kind(self._at + 1) == "number" else 0
            while self._text(self._at) not in ("}", ""):
                self._at += 1
            self._at += 1
            return expression if least else _FREE
        return expression

    def _kind(self, at: int) -> str:
        return self._tokens[at].kind if at < len(self._tokens) else ""

    def _text(self, at: int) -> str:
        return self._tokens[at].text if at < len(self._tokens) else ""
