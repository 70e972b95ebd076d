"""The batch loop on mlx_lm's parts: prompts, sampling, text; no pipe, no HTTP. [child]"""
