"""The dashboard at `/`: its files, its stream and the history of its charts.

[front]
"""
