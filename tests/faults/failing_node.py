"""The product's node, on children whose model can be told to fail: `serve --config FILE`."""

import logging
import sys
from pathlib import Path

import uvloop

from mlx_worker.config.load import load_config
from mlx_worker.server import serve
from mlx_worker.supervisor.process.launch.launcher import ProcessLauncher

COMMAND = (sys.executable, "-m", "tests.faults.failing_node")
CHILD = (sys.executable, "-P", str(Path(__file__).with_name("failing_child.py")))

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    uvloop.run(serve(load_config(Path(sys.argv[-1])), launcher=ProcessLauncher(CHILD)))
