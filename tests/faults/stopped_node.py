"""The product's node, on scripted children that say a word every 20 ms: `serve --config FILE`."""

import logging
import sys
from pathlib import Path

import uvloop

from mlx_worker.config.load import load_config
from mlx_worker.server import serve
from tests.supervisor_harness import scripted_process

COMMAND = (sys.executable, "-m", "tests.faults.stopped_node")

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    uvloop.run(serve(load_config(Path(sys.argv[-1])), launcher=scripted_process("--every", "0.02")))
