"""The product's node, on children that can be told to write garbage: `serve --config FILE`."""

import logging
import sys
from pathlib import Path

import uvloop

from mlx_worker.config.load import load_config
from mlx_worker.server import serve
from mlx_worker.supervisor.process.launch.launcher import ProcessLauncher

COMMAND = (sys.executable, __file__)
CHILD = (sys.executable, str(Path(__file__).with_name("garbling_child.py")))

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    uvloop.run(serve(load_config(Path(sys.argv[-1])), launcher=ProcessLauncher(CHILD)))
