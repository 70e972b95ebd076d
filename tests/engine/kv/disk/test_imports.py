"""What writes and reads the disk makes no call of mlx: only `arrays` imports mlx."""

from __future__ import annotations

import ast
from pathlib import Path

import mlx_worker.engine.kv.disk as room


def test_only_arrays_imports_mlx() -> None:
    for file in sorted(Path(room.__path__[0]).glob("*.py")):
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
        assert bool(names & {"mlx", "mlx_lm"}) == (file.name == "arrays.py"), file
