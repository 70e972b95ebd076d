"""Serve a configuration whose models talk by rule: `talking_node.py serve --config FILE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import uvloop

from mlx_worker.config.load import load_config
from mlx_worker.logs import set_up
from mlx_worker.server import serve
from mlx_worker.supervisor.process.launch.launcher import ProcessLauncher

CHILD = (sys.executable, str(Path(__file__).with_name("talking_child.py")))


def main() -> None:
    """Serve until a signal."""
    config = load_config(Path(sys.argv[sys.argv.index("--config") + 1]))
    set_up(config.log)
    uvloop.run(serve(config, launcher=ProcessLauncher(CHILD)))


if __name__ == "__main__":
    main()
