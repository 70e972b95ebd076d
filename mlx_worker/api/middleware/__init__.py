"""Handle what all requests share: connections, credentials, bodies, errors, headers.

[front]
"""
