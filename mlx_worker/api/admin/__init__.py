"""Endpoints of operators and routers: health, cache, models, logs, events, reload. [front]"""
