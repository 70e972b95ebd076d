"""Counters, Prometheus metrics, event loop lag and traces. [front]"""
