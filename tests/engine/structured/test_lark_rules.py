"""Rules of Lark grammars that no finite text fits: found, and none found where all texts end."""

from __future__ import annotations

import pytest

from mlx_worker.engine.structured.lark_rules import MOST_TOKENS, read_rules

ENDLESS = {
    "itself": ("start: start", "start"),
    "itself-behind-text": ('start: "a" start', "start"),
    "behind-text": ('start: "a" b\nb: b', "b"),
    "two": ('start: "a" b\nb: "x" c\nc: b', "b"),
    "one-alternative": ('start: "a" b | "c"\nb: "x" b', "b"),
    "all-alternatives": ('start: "a" | b\nb: "x" b\n | /y/ b', "b"),
    "in-a-group": ('start: ("a" | b)\nb: ("x" b)+', "b"),
    "counted": ('start: "a" | b\nb: "x" b{2,3}', "b"),
    "counted-as-lark-does": ('start: "a" | b\nb: "x" b~2..3', "b"),
    "with-settings": ('%llguidance {"no_forcing": true}\nstart: b\n?b[max_tokens=5]: "x" b', "b"),
    "with-comments": ("start: b // b: C\n# b: C\nb: B b\nB: /b/", "b"),
    "with-marks": ('start: b\n!b.2: <|im_start|> @other "x"i "a".."z" b', "b"),
}

ENDING = {
    "text": 'start: "a"',
    "nothing": "start: ",
    "right-recursion": 'start: "a" start | "b"',
    "left-recursion": 'start: start "a" | "b"',
    "optional": 'start: "a" start?',
    "optional-group": 'start: "a" [start]',
    "any-number": 'start: "a" start*',
    "none-or-more": 'start: "a" start{0,2} | "a" start{,2} start~0..2',
    "list": 'start: "[" (value ("," value)*)? "]"\nvalue: start | /[0-9]+/',
    "expression": "start: sum\nsum: (sum /[+]/)? item\nitem: N | /\\(/ sum /\\)/\nN: /[0-9]+/",
    "out-of-reach": 'start: "a"\nb: b',
    "documents": 'start: "x" %json {"type": "object", "a": ": {"} b\nb: "}"',
    "marker": 'start: "a: b" X\nX: /x: y|z/ & ~/b/',
    "not-understood": "start: b\nb: b $",
    "unclosed": 'start: "a',
    "no-grammar": '{"grammars": [1, 2]}',
    "deep": "start: " + "(" * 900 + "b" + ")" * 900,
}


@pytest.mark.parametrize(("grammar", "rule"), ENDLESS.values(), ids=ENDLESS)
def test_endless_rule_is_found(grammar: str, rule: str) -> None:
    assert read_rules(grammar).endless_rule() == rule


@pytest.mark.parametrize("grammar", ENDING.values(), ids=ENDING)
def test_grammar_with_an_end_has_no_endless_rule(grammar: str) -> None:
    assert read_rules(grammar).endless_rule() is None


def test_atoms_are_what_rules_name_and_not_what_terminals_are_made_of() -> None:
    found = read_rules('start: "a" X /b/ | %regex {"s": 1}\nX: /c/ & ~NONE\nNONE: /[^\\s\\S]/')
    assert found.atoms == ["X", "/b/", '%regex {"s": 1}']
    assert found.trials()[0][1].startswith('start_of_all: "a" X')
    assert found.trials()[0][1].endswith("\nstart: X\n")


def test_grammar_of_many_tokens_is_not_read() -> None:
    assert read_rules("start: a\na: a\n" + '"x" ' * MOST_TOKENS).rules == {}


def test_long_chain_of_rules_ends() -> None:
    """Each rule needs the next."""
    count = MOST_TOKENS // 4
    chain = "".join(f"r{i}: r{i + 1}\n" for i in range(count))
    assert read_rules(f'start: r0\n{chain}r{count}: "x"\n').endless_rule() is None
