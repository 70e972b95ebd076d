"""Amounts of memory as people write them."""

from __future__ import annotations

import pytest

from mlx_worker.config.sizes import MemoryLimit, Size, in_words


@pytest.mark.parametrize(
    ("written", "nbytes"),
    [
        (0, 0),
        (4096, 4096),
        ("12GB", 12_000_000_000),
        ("12 gb", 12_000_000_000),
        ("1.5G", 1_500_000_000),
        ("1.5 GiB", 3 << 29),
        ("512MiB", 512 << 20),
        ("7k", 7000),
        ("42", 42),
        ("2TB", 2 * 10**12),
    ],
)
def test_bytes_are_read_as_they_are_written(written: int | str, nbytes: int) -> None:
    assert Size.read(written) == nbytes


@pytest.mark.parametrize("written", [-1, 1.5, True, "", "GB", "12 QB", "-3GB", None, 1 << 51, [1]])
def test_what_is_no_amount_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="12GB"):
        Size.read(written)


@pytest.mark.parametrize(
    ("written", "of_1000"), [(0.75, 750), (1.0, 1000), (600, 600), ("2kB", 2000)]
)
def test_a_limit_is_bytes_or_a_share_of_the_machine(written: object, of_1000: int) -> None:
    assert MemoryLimit.read(written).of(1000) == of_1000


@pytest.mark.parametrize("written", [0, 0.0, 1, 1.5, -0.5, True, "", "0.5"])
def test_what_is_no_limit_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"0\.75"):
        MemoryLimit.read(written)


@pytest.mark.parametrize(
    ("nbytes", "words"), [(12, "12 bytes"), (1500, "1.5 KB"), (3 * 10**9, "3.0 GB")]
)
def test_it_is_said_in_few_words(nbytes: int, words: str) -> None:
    assert in_words(nbytes) == words
