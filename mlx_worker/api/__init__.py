"""The HTTP API of the front. It knows no processes.

[front]
"""
