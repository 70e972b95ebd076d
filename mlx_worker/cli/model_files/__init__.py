"""The commands about model files on this machine: no node needs to run.

[front]
"""
