"""Bodies parsed off the event loop where they are large, by a closed table of kinds.

[front]
"""
