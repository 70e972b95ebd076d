"""Be a child of the node that serves `talker` as an architecture of mlx_lm."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from mlx_worker.child.__main__ import main
from tests.clients import talker

if __name__ == "__main__":
    sys.modules["mlx_lm.models.talker"] = talker
    main()
