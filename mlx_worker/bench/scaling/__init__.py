"""`mlx-worker bench growth`: what things cost as there is more of them.

A curve is one cost against one size, measured at growing sizes: the node from outside, the engine
alone beside it, and two structures by themselves whose cost would be lost in a whole node's.
[bench]
"""
