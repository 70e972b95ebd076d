"""The digest of a child's code covers all that decides what a model says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mlx_worker.system.package_code import child_files

IMPORTED = """
import json, sys
import mlx_worker.child.__main__, mlx_worker.child.worker, mlx_worker.grammar_trial.trial
print(json.dumps([m.__file__ for name, m in sys.modules.items() if name.startswith("mlx_worker")]))
"""

WITHOUT_A_SAY = {
    "__init__.py",
    "config",
    "errors",
    "json_output.py",
    "log_writer.py",
    "logs.py",
    "system",
    "validation.py",
}
"""Words of errors and log lines, and the process's dealings with the system."""


def test_child_files_cover_all_imports_of_a_child_that_decide_what_a_model_says() -> None:
    shown = subprocess.run([sys.executable, "-c", IMPORTED], check=True, stdout=subprocess.PIPE)
    imported = {Path(name) for name in json.loads(shown.stdout)}
    (root,) = {path.parents[1] for path in imported if path.match("mlx_worker/child/worker.py")}
    left_out = {path.relative_to(root).parts[0] for path in imported - set(child_files(root))}
    assert left_out <= WITHOUT_A_SAY
