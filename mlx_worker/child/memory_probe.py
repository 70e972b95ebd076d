"""What a model needs of memory, without loading the model.

    python -m mlx_worker.child.memory_probe PATH            (a model's folder, or a config.json)

The model is built by mlx_lm and read into by one token, both without computing anything: mlx knows
the shapes of arrays that it has not computed. So the bytes are those of the model's own code, for
sliding windows, latent attention and recurrent states too. A process of its own: the commands
import no mlx. [child]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import mlx.core as mx
import msgspec
from mlx import nn
from mlx.utils import tree_map_with_path
from mlx_lm import utils as mlx_lm_utils
from mlx_lm.convert import MODEL_CONVERSION_DTYPES

from mlx_worker.child.working_set import working_set
from mlx_worker.engine.batch_support import is_cuttable, unbatched_because
from mlx_worker.engine.kv.cost import trace_kv_cost
from mlx_worker.engine.loading import convert_weights, weight_bytes
from mlx_worker.errors import BadModelFolder, WorkerError, cause_of
from mlx_worker.models.json_file import read_object
from mlx_worker.models.pull.command import run_to_exit_code
from mlx_worker.models.stated import text_parts
from mlx_worker.wire.memory_needs import MemoryNeeds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlx_worker.wire.kv_cost import KvCost

PREFIX: Final = "needs "
"""What the line of the result begins with: a model's code may print lines too."""

AS_STORED: Final = "fp8"
"""A quantization in which models are published, and which mlx_lm undoes as it loads."""


def probe(path: Path, dtype: str = "") -> MemoryNeeds:
    """Return what a model folder, or the model of a config.json, needs of memory.

    `dtype` is the floating-point type of the weights; "": the types in the files.

    Raises BadModelFolder for what mlx_lm cannot build, UnservableModel for what the engine refuses.
    """
    is_folder = path.is_dir()
    model, unknown, notes = _built(path, _of_folder if is_folder else _of_config)
    convert_weights(model, dtype)
    is_cuttable(model)
    kv: KvCost | None = None
    try:
        kv = trace_kv_cost(model)
    except Exception as error:  # noqa: BLE001  (a model's own code raises nearly anything)
        why = f"KV: reading a token needs computed values in this architecture ({cause_of(error)})"
        unknown = (*unknown, why)
    return MemoryNeeds(
        weight_bytes=weight_bytes(model) if _weights_are_known(unknown) else None,
        kv=kv,
        unbatched=unbatched_because(model),
        working_set=working_set(mx.device_info()),
        unknown=unknown,
        notes=notes,
    )


_Built = tuple[Any, tuple[str, ...], tuple[str, ...]]
"""A model, what is unknown of it, and what was assumed."""

WEIGHTS: Final = "weights: "


def _weights_are_known(unknown: tuple[str, ...]) -> bool:
    return not any(why.startswith(WEIGHTS) for why in unknown)


def _built(path: Path, build: Callable[[Path], _Built]) -> _Built:
    try:
        return build(path)
    except WorkerError:
        raise
    except SystemExit as error:
        raise BadModelFolder(
            f"mlx_lm cannot build the model of {path} here: its module needs a package that is not"
            " installed"
        ) from error
    except Exception as error:
        raise BadModelFolder(f"cannot build a model from {path}: {cause_of(error)}") from error


def _of_folder(folder: Path) -> _Built:
    """Build a folder's model; its weights stay on the disk."""
    model, _ = mlx_lm_utils.load_model(folder, lazy=True)
    return model, (), ()


def _of_config(file: Path) -> _Built:
    """Build the model of a config.json alone, with weights that are never computed."""
    config = _decoded(read_object(file))
    model_class, args_class = mlx_lm_utils._get_classes(config)  # noqa: SLF001
    model = model_class(args_class.from_dict(config))
    notes = (_set_dtype(model, config),)
    if (quantization := config.get("quantization")) is not None:
        _quantize(model, quantization)
        return model, (), notes
    stored: dict[str, Any] = next(
        (inner for part in text_parts(config) if (inner := part.get("quantization_config"))), {}
    )
    method = stored.get("quant_method")
    if method is None or method == AS_STORED:
        return model, (), notes
    why = f"{WEIGHTS}config.json alone does not say which of them are in {method}"
    return model, (why,), notes


def _decoded(config: dict[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = mlx_lm_utils._decode_tagged_floats(config)  # noqa: SLF001
    return decoded


def _set_dtype(model: Any, config: dict[str, Any]) -> str:
    """Set the type of the weights as a conversion by mlx_lm does; return what is assumed."""
    stated = [
        dtype
        for part in text_parts(config)
        for name in ("torch_dtype", "dtype")
        if (dtype := part.get(name)) in MODEL_CONVERSION_DTYPES
    ]
    name = str(stated[0]) if stated else "bfloat16"
    dtype = getattr(mx, name)
    is_cast = getattr(model, "cast_predicate", lambda _path: True)

    def cast(path: str, value: mx.array) -> mx.array:
        if is_cast(path) and mx.issubdtype(value.dtype, mx.floating):
            return value.astype(dtype)
        return value

    model.update(tree_map_with_path(cast, model.parameters()))
    why = "" if stated else ", which is assumed: config.json states no dtype"
    return f"weights computed from config.json alone, in {name}{why}"


def _quantize(model: Any, quantization: Mapping[str, Any]) -> None:
    """Quantize what mlx_lm's conversion quantizes, by the configuration of the result."""
    group_size = quantization["group_size"]

    def settings(path: str, module: Any) -> Any:
        if path in quantization:
            return quantization[path]
        return hasattr(module, "to_quantized") and module.weight.shape[-1] % group_size == 0

    nn.quantize(
        model,
        group_size=group_size,
        bits=quantization["bits"],
        mode=quantization.get("mode", "affine"),
        class_predicate=settings,
    )


def main() -> int:
    """Print what the model needs; the exit code says what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m mlx_worker.child.memory_probe")
    parser.add_argument("path", type=Path)
    parser.add_argument("--dtype", default="", choices=("", "float32", "bfloat16"))
    chosen = parser.parse_args()

    def report() -> None:
        sys.stdout.write(
            f"\n{PREFIX}{msgspec.json.encode(probe(chosen.path, chosen.dtype)).decode()}\n"
        )

    return run_to_exit_code(report)


if __name__ == "__main__":
    sys.exit(main())
