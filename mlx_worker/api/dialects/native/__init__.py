"""The bodies of the node's own endpoints, which belong to no vendor's dialect.

[front]
"""
