"""mlx_lm is imported under any limit of open files, and lowers none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import DEADLINE

SHOW = """
import resource, mlx_worker.engine, mlx_lm.utils
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("limits", "soft", "hard"),
    [
        pytest.param("ulimit -Sn 200; ulimit -Hn 200", 200, 200, marks=pytest.mark.full),
        ("ulimit -Sn 200; ulimit -Hn 4095", 2048, 4095),
        pytest.param("ulimit -Sn 3000; ulimit -Hn 4096", 3000, 4096, marks=pytest.mark.full),
    ],
)
@pytest.mark.full
def test_the_import_raises_the_soft_limit_only(limits: str, soft: int, hard: int) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"{limits}; exec {sys.executable} -c '{SHOW}'"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.stdout == f"{soft} {hard}\n", done.stderr
