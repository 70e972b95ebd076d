"""API keys and TLS.

[front]
"""
