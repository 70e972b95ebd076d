"""Equal keys mean equal tokens read by equal weights, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_worker.kv_disk.files.keys import CHUNK_TOKENS, KvIdentity, chain
from tests.kv_disk.disk_harness import IDENTITY

prompts = st.lists(st.integers(0, 3), max_size=3 * CHUNK_TOKENS)
texts = st.text("a\0\u00e9", max_size=4)
identities = st.builds(
    KvIdentity, texts, texts, texts, st.lists(texts, max_size=3).map(tuple), texts, settings=texts
)


@given(prompts)
def test_chunks_cover_all_tokens_in_order(tokens: list[int]) -> None:
    links = chain(IDENTITY, tokens)
    assert [place for link in links for place in range(link.start, link.stop)] == list(
        range(len(tokens))
    )
    assert [link.parent for link in links] == [
        IDENTITY.seed,
        *(link.key for link in links),
    ][: len(links)]


@given(prompts, prompts, st.integers(0, 2))
def test_keys_are_equal_where_all_tokens_before_are(
    one: list[int], other: list[int], shared: int
) -> None:
    other = one[: shared * CHUNK_TOKENS] + other
    for left, right in zip(chain(IDENTITY, one), chain(IDENTITY, other), strict=False):
        assert (left.key == right.key) == (one[: left.stop] == other[: right.stop])


@given(identities, identities)
def test_identities_share_no_bytes(one: KvIdentity, other: KvIdentity) -> None:
    assert (one == other) == (one.encoded == other.encoded) == (one.digest == other.digest)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "w"},
        {"mlx": "9"},
        {"mlx_lm": "9"},
        {"layers": ("RotatingKVCache",)},
        {"dtype": "float16"},
        {"adapter": "a"},
        {"device": "gpu"},
        {"settings": "MLX_ENABLE_TF32=1"},
    ],
)
def test_each_part_of_the_identity_changes_every_key(change: dict[str, str]) -> None:
    other = replace(IDENTITY, **change)  # type: ignore[arg-type]
    tokens = list(range(2 * CHUNK_TOKENS))
    assert not {link.key for link in chain(IDENTITY, tokens)} & {
        link.key for link in chain(other, tokens)
    }


def test_keys_stay_what_they_are_while_the_format_does() -> None:
    keys = [link.key.hex()[:16] for link in chain(IDENTITY, list(range(300)))]
    assert keys == ["64722e335e21d7ae", "1aa31799cb8a51a9"]
    assert IDENTITY.digest.hex() == "f178a14e14968c1798f00c6584d06c0e"
