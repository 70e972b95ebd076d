"""The prompt cache's tier on disk, on the side of mlx: arrays to records and back.

The store itself is `mlx_worker.kv_disk`, which makes no call of mlx. [child]
"""
