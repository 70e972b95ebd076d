"""RDMA over Thunderbolt: what can be said of it where mlx has none."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_worker.engine.ranks.jaccl import check_jaccl
from mlx_worker.errors import UnservableModel


@pytest.mark.skipif(mx.distributed.is_available("jaccl"), reason="this build of mlx has JACCL")
def test_build_of_mlx_without_jaccl_is_refused_in_one_line() -> None:
    with pytest.raises(UnservableModel, match=r"^transport: mlx [0-9.]+ has no JACCL here;"):
        check_jaccl()
