"""The vocabulary of the pipe: typed messages and their framing, without sockets.

[both]
"""
