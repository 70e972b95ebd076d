"""The results as tables, charts and JSON.

[bench]
"""
