"""Structured output: schemas, regular expressions and grammars as constraints.

[child]
"""
