"""Serve generations: start the choices, relay their output, account for the request.

[front]
"""
