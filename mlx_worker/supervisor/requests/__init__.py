"""Requests on their way to a child: admission, the queue, generations, resumption.

[front]
"""
