"""Tiny arguments for every architecture of mlx_lm, made from the fields of its own `ModelArgs`.

A field's name says what a tiny model has there, whatever the architecture: `SIZES`. `PARTICULAR`
has what one architecture needs beside that: layers of each kind that it knows, and dimensions that
must divide one another.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from typing import TYPE_CHECKING, Any

import mlx_lm.models

from mlx_worker.bench.synthetic.tokenizer import IM_END, SPECIALS
from tests.families.particular import PARTICULAR, Text
from tests.families.sizes import CONTEXT, SIZES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType


def modules() -> list[str]:
    """Every module of mlx_lm.models, helpers too, without importing one."""
    return sorted(module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__))


def module_of(name: str) -> ModuleType:
    """Import an architecture. Raises ImportError where mlx_lm cannot: one module exits instead."""
    try:
        return importlib.import_module(f"mlx_lm.models.{name}")
    except SystemExit as error:
        raise ImportError(f"mlx_lm.models.{name} ends the process that imports it") from error


def architectures() -> list[str]:
    """Every module that mlx_lm loads models with, and those that cannot be imported here."""
    return [name for name in modules() if is_unimportable(name) or is_architecture(module_of(name))]


def is_unimportable(name: str) -> bool:
    """Return whether a module asks for a package that is not installed."""
    try:
        module_of(name)
    except ImportError:
        return True
    return False


def is_architecture(module: ModuleType) -> bool:
    """Return whether the module defines what mlx_lm loads a model with."""
    return hasattr(module, "Model") and hasattr(module, "ModelArgs")


def arguments(name: str) -> dict[str, Any]:
    """What the config.json of a tiny model of this architecture says."""
    config = _of(name, "ModelArgs", PARTICULAR.get(name, {}))
    return {**config, "eos_token_id": SPECIALS.index(IM_END), "max_position_embeddings": CONTEXT}


def _of(name: str, class_name: str, particular: Mapping[str, Any]) -> dict[str, Any]:
    """The same for any class of arguments of a module, and for the text half of its model."""
    fields = _sizes(getattr(module_of(name), class_name), particular)
    match fields.get("text_config"):
        case Text(other, class_of_text, more):
            inherited = PARTICULAR.get(other, {}) if class_of_text == "ModelArgs" else {}
            fields["text_config"] = _of(other, class_of_text, {**inherited, **more})
    return {**fields, "model_type": name}


def _sizes(args: Any, particular: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass whose names are known, over its own defaults."""
    fields = {field.name: field for field in dataclasses.fields(args)}
    chosen = {name: SIZES[name] for name in fields if name in SIZES} | dict(particular)
    hints = typing.get_type_hints(args)
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in chosen:
            chosen[name] = {bool: False, float: 1.0}.get(hints[name])
    return chosen
