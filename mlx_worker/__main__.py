"""`python -m mlx_worker` is `mlx-worker`.

[front]
"""

from mlx_worker.cli.main import main

main()
