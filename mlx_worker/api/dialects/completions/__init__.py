"""The dialect of `POST /v1/completions`.

[front]
"""
