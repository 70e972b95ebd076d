"""The dialect of `POST /v1/responses`.

[front]
"""
