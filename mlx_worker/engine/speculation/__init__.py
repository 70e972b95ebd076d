"""Speculation: several tokens of a row in one forward pass, the same as one by one.

[child]
"""
