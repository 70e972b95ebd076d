"""Tiny synthetic models, which are served where no model was downloaded.

A folder made here is an ordinary mlx_lm model (config, weights, tokenizer, chat template): it loads
through the same code as a real one, but a decode step takes about a millisecond, so that the
serving stack is what is exercised, and not the arithmetic. Only the standard library is used: the
files are the same bytes whatever versions are installed. [bench]
"""
