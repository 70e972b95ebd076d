"""Expose the node's figures to Prometheus, and to routers that read vLLM's metrics.

[front]
"""
