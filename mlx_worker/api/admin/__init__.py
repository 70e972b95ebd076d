"""Serve operators and routers: health, cache, models, logs, events, metrics, reload.

[front]
"""
