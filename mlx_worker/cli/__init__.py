"""The command line: `mlx-worker` and its commands.

[front]
"""
