"""The product's child, which knows one model more: `failing_model`'s."""

import sys

from mlx_worker.child.__main__ import main
from tests.faults import failing_model

if __name__ == "__main__":
    sys.modules[failing_model.MODULE] = failing_model
    main()
