"""A model's part of one rank: the split of mlx_lm, and the refusal of one that cannot be.

A tensor split gives each rank some heads of every layer, a pipeline split some layers. mlx_lm
divides numbers of heads and rounds them down: such a model loads, and breaks in its first forward.
[child]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_worker.engine.batch_support import unbatched_because
from mlx_worker.errors import UnservableModel

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_worker.wire.rank_place import Split


def keep_part(model: Any, split: Split, group: mx.distributed.Group) -> None:
    """Reduce a model, whose weights are not in memory yet, to the part of this rank.

    Raises UnservableModel with the numbers for a model that cannot be split like this.
    """
    name = type(model).__module__.rpartition(".")[2]
    if reason := unbatched_because(model):
        raise UnservableModel(f"a model of type {name!r} runs on one rank only: {reason}")
    if split == "pipeline":
        _keep_layers(model, name, group)
    else:
        _keep_heads(model, name, group)


def _keep_layers(model: Any, name: str, group: mx.distributed.Group) -> None:
    inner: Any = getattr(model, "model", None)
    if not hasattr(inner, "pipeline"):
        raise UnservableModel(f"mlx_lm has no pipeline split of a model of type {name!r}")
    layers = len(inner.layers)
    if layers < group.size():
        raise UnservableModel(f"{layers} layers cannot be split over {group.size()} ranks")
    inner.pipeline(group)


def _keep_heads(model: Any, name: str, group: mx.distributed.Group) -> None:
    if not hasattr(model, "shard"):
        raise UnservableModel(f"mlx_lm has no tensor split of a model of type {name!r}")
    before = _head_counts(model)
    try:
        model.shard(group)
    except ValueError as error:
        raise UnservableModel(f"cannot split over {group.size()} ranks: {error}") from error
    after = _head_counts(model)
    for place, count in before.items():
        left = after.get(place, count)
        if left not in (count, count / group.size()):
            attribute = place.rpartition(".")[2]
            raise UnservableModel(
                f"{count} heads ({attribute}) cannot be split over {group.size()} ranks"
            )


def _head_counts(model: Any) -> dict[str, int]:
    """Return every number of heads in the model's modules, by module and attribute."""
    return {
        f"{path}.{attribute}": value
        for path, module in model.named_modules()
        for attribute, value in vars(module).items()
        if "heads" in attribute and isinstance(value, int) and not isinstance(value, bool)
    }
