"""The targets of measurements: a node, other servers, and the engine alone, each a process.

[bench]
"""
