"""`mlx-worker bench`: a node, other servers and the bare engine, measured side by side.

The command starts what it measures, each as a process of its own, and sends the load from another
process, so that no time is counted for another process. Only one module here touches mlx, and it
runs as a process too. [bench]
"""
