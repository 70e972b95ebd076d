"""What writes and reads the disk makes no call of mlx, so that the front may look into the folder.

The import contracts say the same of whole rooms; this test says which module breaks it.
"""

from __future__ import annotations

import ast
from pathlib import Path

import mlx_worker.kv_disk as room


def test_no_module_of_the_store_imports_mlx() -> None:
    for file in sorted(Path(room.__path__[0]).rglob("*.py")):
        names = {
            name.partition(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not names & {"mlx", "mlx_lm"}, file
