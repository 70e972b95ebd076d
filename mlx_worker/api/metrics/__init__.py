"""Count requests and tokens, measure the event loop, and send traces.

[front]
"""
