"""The trial of a costly grammar, and the process in which it runs.

Outside `engine`, whose import loads mlx_lm: the process needs llguidance alone, and starts beside
streams. [child, and its helper]
"""
