"""Keeping children alive and their work safe; knows no HTTP.

[front]
"""
