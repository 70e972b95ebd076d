"""A GGUF's byte-level BPE vocabulary, as the tokenizer files that transformers reads.

A GGUF names its pre-tokenizer instead of describing it: the names known here are spelled out,
an unknown one is refused, because a wrong split gives text that is only subtly worse. [child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split
from tokenizers.processors import TemplateProcessing

from mlx_worker.errors import BadModelFolder
from mlx_worker.models.pull.gguf_config import need

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type: special, and never split but visible

_LLAMA3_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False)


def _smollm() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def _llama3() -> PreTokenizer:
    words = Split(Regex(_LLAMA3_WORDS), behavior="isolated")
    return Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])


_PRE_TOKENIZERS: Final[dict[str, Callable[[], PreTokenizer]]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "llama-bpe": _llama3,
}


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that a GGUF's metadata (plain Python values) describes.

    Raises BadModelFolder when its model or pre-tokenizer is none of those known here.
    """
    tokens: list[str] = need(metadata, "tokenizer.ggml.tokens")
    merges = [_merge(line) for line in need(metadata, "tokenizer.ggml.merges")]
    pre_tokenizer = _pre_tokenizer(metadata)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = ByteLevelDecoder()
    _add_marked_tokens(tokenizer, tokens, metadata.get("tokenizer.ggml.token_type", []))
    if metadata.get("tokenizer.ggml.add_bos_token", False):
        bos = int(need(metadata, "tokenizer.ggml.bos_token_id"))
        tokenizer.post_processor = TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    return tokenizer


def tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Make tokenizer_config.json's content: special tokens by role, and the chat template."""
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(need(metadata, "llama.context_length")),
        "clean_up_tokenization_spaces": False,
    }
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            config[f"{role}_token"] = metadata["tokenizer.ggml.tokens"][int(index)]
    if template := metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    model = need(metadata, "tokenizer.ggml.model")
    if model != "gpt2":
        raise BadModelFolder(
            f"the GGUF's tokenizer is {model!r}; only byte-level BPE ('gpt2') is converted"
        )
    name = need(metadata, "tokenizer.ggml.pre")
    if name not in _PRE_TOKENIZERS:
        known = ", ".join(_PRE_TOKENIZERS)
        raise BadModelFolder(f"the GGUF's pre-tokenizer is {name!r}; known are {known}")
    return _PRE_TOKENIZERS[name]()


def _merge(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    return left, right


def _add_marked_tokens(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    marked = list(zip(tokens, types, strict=False))
    special = [t for t, kind in marked if kind == _CONTROL]
    visible = [t for t, kind in marked if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in visible])
