"""Tiny models, made on the spot: what is served where nobody has downloaded a model.

A folder made here is an ordinary mlx_lm model (config, weights, tokenizer, chat template): it loads
through the same code as a real one, but a decode step takes about a millisecond, so that the
serving stack is what is exercised, and not the arithmetic. Only the standard library is used: the
files are the same bytes whatever versions are installed. [bench]
"""
