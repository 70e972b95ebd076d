"""Make the folder of a model that talks by rule: a real tokenizer, a template, one number."""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from tests.clients.talk import CALL_BEGINS, CALL_ENDS, ROW, TURN_BEGINS, TURN_ENDS

ROOT: Final = Path(__file__).parents[2]
VOCABULARY: Final = 12_000

_TOOLS: Final = (
    "{%- if tools %}{{- '<|im_start|>tools\\n' }}"
    "{%- for tool in tools %}{{- (tool | tojson) + '\\n' }}{%- endfor %}"
    "{{- '<|im_end|>\\n' }}{%- endif %}"
)
_TURNS: Final = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}"
    "{%- for tool_call in message.tool_calls or [] %}"
    "{%- set tool_call = tool_call.function %}"
    '{{- \'<tool_call>\\n{"name": "\' + tool_call.name + \'", "arguments": \' }}'
    "{{- (tool_call.arguments | tojson) + '}\\n</tool_call>' }}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
_SYSTEM_FIRST: Final = (
    "{%- for message in messages %}{%- if message.role == 'system' and not loop.first %}"
    "{{- raise_exception('System message must be at the beginning.') }}"
    "{%- endif %}{%- endfor %}"
)
_ALTERNATE: Final = (
    "{%- set turns = namespace(count=0) %}"
    "{%- for message in messages %}"
    "{%- if message.role in ('user', 'assistant') and not message.tool_calls %}"
    "{%- if (message.role == 'user') != (turns.count % 2 == 0) %}"
    "{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant') }}"
    "{%- endif %}{%- set turns.count = turns.count + 1 %}{%- endif %}{%- endfor %}"
)
TEMPLATES: Final = {
    "lenient": _TOOLS + _TURNS,
    "system first": _SYSTEM_FIRST + _TOOLS + _TURNS,
    "alternating": _SYSTEM_FIRST + _ALTERNATE + _TOOLS + _TURNS,
}
"""As recent Qwen models have them: the second; as Mistral's older ones: the third."""


def make_talker(folder: Path, *, context: int, template: str = "lenient") -> Path:
    """Write the model into the folder, which may exist, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(_tokenizer(), encoding="utf-8")
    ends = Tokenizer.from_str(_tokenizer()).token_to_id(TURN_ENDS)
    _write(
        folder / "config.json",
        architectures=["TalkerForCausalLM"],
        model_type="talker",
        vocab_size=Tokenizer.from_str(_tokenizer()).get_vocab_size(),
        max_position_embeddings=context,
        eos_token_id=ends,
        tokenizer=str(tokenizer),
    )
    _write(
        folder / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        eos_token=TURN_ENDS,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        chat_template=TEMPLATES[template],
    )
    weights = {"layers.0.weight": np.ones((1, 1), dtype=np.float32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})
    return folder


def _write(path: Path, **content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


@lru_cache(maxsize=1)
def _tokenizer() -> str:
    """Train byte-level BPE on this project's own texts: about four characters a token.

    The words of `ROW` are so frequent that each is a token, whatever the texts are.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[TURN_BEGINS, TURN_ENDS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "mlx_worker").rglob("*.py")])
    read = (path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *texts))
    tokenizer.train_from_iterator(chain(read, repeat("".join(ROW), 1000)), trainer)
    tokenizer.add_tokens(
        [AddedToken(mark, special=False, normalized=False) for mark in (CALL_BEGINS, CALL_ENDS)]
    )
    return str(tokenizer.to_str())
