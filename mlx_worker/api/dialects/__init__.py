"""The HTTP dialects: bodies parsed into neutral requests, and answers written.

[front]
"""
