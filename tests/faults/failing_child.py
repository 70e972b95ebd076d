"""The product's child, which knows two models more: those that fail when they are told to."""

import sys
from pathlib import Path

from mlx_worker.child.__main__ import main

if __name__ == "__main__":
    # At the end: a test may have another mlx_worker found than the one beside `tests`.
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.faults import failing_model, storable_model

    sys.modules[failing_model.MODULE] = failing_model
    sys.modules[storable_model.MODULE] = storable_model
    main()
