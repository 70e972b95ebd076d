"""Write a synthetic model into a folder.

[bench]
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from mlx_worker.bench.synthetic.family import weights
from mlx_worker.bench.synthetic.tokenizer import IM_END, SPECIALS, tokenizer, vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlx_worker.bench.synthetic.family import Family, Floats, Shape, Spec


def make_folder(spec: Spec, family: Family, folder: Path) -> Path:
    """Write the model into *folder*, which may exist, and return the folder."""
    tokens = vocabulary(spec.added)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", family.config(spec))
    _write_json(folder / "tokenizer.json", tokenizer(tokens, spec.added))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(spec))
    _write_safetensors(folder / "model.safetensors", weights(spec, family, tokens))
    return folder


def _tokenizer_config(spec: Spec) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": IM_END,
        "additional_special_tokens": list(SPECIALS),
        "clean_up_tokenization_spaces": False,
        "model_max_length": spec.context,
        "chat_template": spec.template,
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _write_safetensors(path: Path, tensors: Mapping[str, tuple[Shape, Floats]]) -> None:
    """Write the format by hand: a length, a JSON header, the tensors' bytes end to end."""
    ends = accumulate(len(data) * data.itemsize for _, data in tensors.values())
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    start = 0
    for (name, (shape, _)), end in zip(tensors.items(), ends, strict=True):
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # readers map the file: floats must lie aligned
    body = b"".join(data.tobytes() for _, data in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
