"""The process of one model: the pipe's end, and messages turned into engine calls.

[child]
"""
