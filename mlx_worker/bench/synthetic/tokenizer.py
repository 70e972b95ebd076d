"""The tokenizer of the synthetic models: bytes, and the words of one small corpus.

[bench]
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

VOCABULARY = 1024
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
SPECIALS = (IM_START, IM_END)

# ChatML. Content may be null (an assistant message that only calls tools).
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CORPUS = Path(__file__).with_name("corpus.txt").read_text(encoding="ascii")
WORDS = tuple(dict.fromkeys(CORPUS.split()))


def byte_alphabet() -> list[str]:
    """Return GPT-2's printable character for each byte, as byte-level BPE files have them."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def merges(added: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return merge rules that spell each word letter by letter, with its space first, then without.

    The rules are listed instead of trained: the order of a trainer's ties depends on its version.
    Spaced words come first, so the rules of the bare ones never split them.
    """
    space = byte_alphabet()[ord(" ")]
    spelled = [*(space + word for word in WORDS), *WORDS]
    rules = dict.fromkeys(
        (before, letter)
        for word in spelled
        for before, letter in zip(accumulate(word), word[1:], strict=False)
    )
    room = VOCABULARY - len(SPECIALS) - len(added) - 256
    assert len(rules) >= room, f"the corpus makes {len(rules)} merges of {room}"
    return list(rules)[:room]


def vocabulary(added: tuple[str, ...] = ()) -> list[str]:
    """Return every token in the order of its id; `added` are not special tokens."""
    return [*SPECIALS, *added, *byte_alphabet(), *("".join(pair) for pair in merges(added))]


def tokenizer(tokens: list[str], added: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the content of tokenizer.json."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token in SPECIALS,
            }
            for number, token in enumerate((*SPECIALS, *added))
        ],
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges(added),
        },
    }
