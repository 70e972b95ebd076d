"""Tiny random models of any architecture, written as folders that load like any other.

mlx_lm's own class says which tensors there are. They are filled with noise of unit gain, so that
each token depends on the whole prompt; vectors keep what the class begins with, shaken a little.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from mlx_worker.bench.synthetic.tokenizer import CHAT_TEMPLATE, IM_END, tokenizer, vocabulary
from tests.families.arguments import arguments

if TYPE_CHECKING:
    from pathlib import Path

SHAKE: Final = 0.1
"""By how much the elements of a vector differ."""


def make_family(name: str, folder: Path) -> Path:
    """Write a tiny random model of this architecture."""
    config = arguments(name)
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    mx.random.seed(1)
    tensors = {path: _filled(value) for path, value in tree_flatten(model.parameters())}
    mx.eval(tensors)
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    for file_name, content in {
        "config.json": config,
        "tokenizer.json": tokenizer(vocabulary()),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": IM_END,
            "chat_template": CHAT_TEMPLATE,
        },
    }.items():
        (folder / file_name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def _filled(value: mx.array) -> mx.array:
    if not mx.issubdtype(value.dtype, mx.floating):
        return mx.random.randint(0, 256, value.shape).astype(value.dtype)
    noise = mx.random.normal(value.shape)
    if value.ndim < 2:
        return (value + SHAKE * noise).astype(value.dtype)
    return (noise / math.sqrt(value.shape[-1])).astype(value.dtype)
