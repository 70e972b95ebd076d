"""Let a response outlive its client: record the response, and let the same request read it again.

[front]
"""
