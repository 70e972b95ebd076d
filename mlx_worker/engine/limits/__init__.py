"""Limits of one answer that depend on its tokens so far: thinking, and repetition.

[child]
"""
