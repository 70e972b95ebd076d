"""Find missing weights of a folder by comparing its arrays with the index.

mlx_lm reads every `model*.safetensors` and no index. So an index that belongs to other files, as
after a conversion, is worth a warning only, and so is a shard without anything of the text model. A
download that stopped half-way is found by arrays: the index lists one that is in no file though the
same array exists for another layer, or numbered shards are missing and so are layers. Other gaps
are found when the model is built. [both]
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlx_worker.errors import BadModelFolder
from mlx_worker.models.header import read_header
from mlx_worker.models.json_file import read_object
from mlx_worker.models.stated import is_stated, layer_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PATTERN: Final = "model*.safetensors"
"""What mlx_lm reads."""

INDEX: Final = "model.safetensors.index.json"

_SHARD: Final = re.compile(r"(.*-)(\d+)-of-(\d{1,5})\.safetensors")
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")

_NO_TEXT: Final = re.compile(
    r"(?:^|[._])(?:vision|visual|image|audio|video|speech|vit|siglip|mm|multi_modal|multimodal"
    r"|projector|connector|aligner|resampler|perceiver|talker|code2wav|token2wav|mtp)(?:[._]|$)"
)
"""In the name of an array that mlx_lm's text models do without."""

_HEAD: Final = "lm_head"
_CORE: Final = frozenset({_HEAD, "embed_tokens", "norm", "wte", "ln_f", "norm_f", "embeddings"})
"""Modules outside the layers that a text model has one of, by the last part of their names."""


class Weights(msgspec.Struct, frozen=True):
    """The bytes of all arrays, and what about their files deserves a look.

    `half_bytes` are floating-point numbers of 16 bits, `single_bytes` those of 32 bits.
    """

    nbytes: int
    warnings: tuple[str, ...]
    half_bytes: int
    single_bytes: int


def inspect_weights(folder: Path, config: dict[str, Any]) -> Weights:
    """Read the headers of all weights. Raises BadModelFolder where a file is broken or missing."""
    headers = {file.name: read_header(file) for file in sorted(folder.glob(PATTERN))}
    if not headers:
        raise BadModelFolder(f"{folder} has no {PATTERN}")
    arrays = frozenset().union(*(header.names for header in headers.values()))
    warnings = [
        f"{name} is {header.surplus} bytes longer than its header says"
        for name, header in headers.items()
        if header.surplus
    ]
    shards = list(_missing_shards(headers))
    try:
        index = _weight_map(folder)
    except (BadModelFolder, OSError) as error:
        warnings.append(f"{INDEX} cannot be read, which mlx_lm does not do: {error}")
        index = {}
    absent = sorted(set(index.values()) - headers.keys())
    found = _Found(arrays, layer_count(config), tied=not _has_own_head(config))
    if any(file in headers for file in index.values()):  # else the index belongs to other files
        lost = {name: file for name, file in index.items() if file in absent}
        _refuse_lost_arrays(folder, lost, found)
        _refuse_lost_layers(folder, absent, found)
    _refuse_lost_layers(folder, shards, found)
    if absent:
        warnings.append(
            f"{INDEX} lists {absent[0]}{_and_more(absent)}, not in the folder; the index may belong"
            " to other files; mlx_lm does not read the index"
        )
    if shards := [name for name in shards if name not in absent]:
        warnings.append(f"{shards[0]}{_and_more(shards)} is not in the folder")
    return Weights(
        sum(header.weight_bytes for header in headers.values()),
        tuple(warnings),
        sum(header.half_bytes for header in headers.values()),
        sum(header.single_bytes for header in headers.values()),
    )


class _Found:
    """The arrays of a folder, and what they say of those that are not there."""

    def __init__(self, arrays: frozenset[str], layers: int | None, *, tied: bool) -> None:
        self.arrays = arrays
        self.layers = layers
        self._tied = tied
        self._alike = {_alike(name) for name in arrays}
        self._core = {_leaf(name) for name in arrays if not _NUMBER.search(name)}

    def needs(self, name: str) -> bool:
        """Return True if the text model needs this array, as far as names can tell."""
        if name in self.arrays or _NO_TEXT.search(name):
            return False
        if (number := _NUMBER.search(name)) is None:
            leaf = _leaf(name)
            return leaf in _CORE - self._core and not (leaf == _HEAD and self._tied)
        within = self.layers is None or int(number[0]) < self.layers
        return within and _alike(name) in self._alike

    def lost_layers(self) -> int:
        """Return how many layers have no array; 0 where config.json does not say how many are."""
        numbers: defaultdict[str, set[int]] = defaultdict(set)
        for name in self.arrays:
            if not _NO_TEXT.search(name) and (number := _NUMBER.search(name)):
                numbers[name[: number.start()]].add(int(number[0]))
        wanted = set(range(self.layers or 0))
        return min((len(wanted - have) for have in numbers.values()), default=len(wanted))


def _refuse_lost_arrays(folder: Path, lost: dict[str, str], found: _Found) -> None:
    """Raise BadModelFolder where arrays of missing files are needed; `lost` has their files."""
    if needed := sorted(filter(found.needs, lost)):
        raise BadModelFolder(
            f"{folder} lacks {lost[needed[0]]}, which {INDEX} lists: "
            f"{needed[0]}{_and_more(needed)} is in no file"
        )


def _refuse_lost_layers(folder: Path, missing: list[str], found: _Found) -> None:
    """Raise BadModelFolder where files are missing and so are layers."""
    if missing and (lost := found.lost_layers()):
        raise BadModelFolder(
            f"{folder} lacks {missing[0]}{_and_more(missing)}: "
            f"{lost} of {found.layers} layers are in no file"
        )


def _weight_map(folder: Path) -> dict[str, str]:
    """Return which file holds which array by the index. Raises BadModelFolder for no index."""
    try:
        content = read_object(folder / INDEX, "utf-8")
    except FileNotFoundError:
        return {}
    listed = content.get("weight_map")
    if not isinstance(listed, dict):
        raise BadModelFolder(f"{folder / INDEX} has no weight_map")
    return {name: file for name, file in listed.items() if isinstance(file, str)}


def _missing_shards(names: Iterable[str]) -> Iterator[str]:
    """Yield the shards that are not there, of each numbered set of which some are."""
    sets: defaultdict[tuple[str, int, str], set[int]] = defaultdict(set)
    for name in names:
        if match := _SHARD.fullmatch(name):
            before, number, count = match.groups()
            sets[before, len(number), count].add(int(number))
    for (before, width, count), have in sets.items():
        for number in sorted(set(range(1, int(count) + 1)) - have):
            yield f"{before}{number:0{width}}-of-{count}.safetensors"


def _has_own_head(config: dict[str, Any]) -> bool:
    return is_stated(config, "tie_word_embeddings", value=False)


def _alike(name: str) -> str:
    """Return what the names of an array have in common over all layers and experts."""
    return _NUMBER.sub("*", name)


def _leaf(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[2]


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
