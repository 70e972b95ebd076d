"""Earlier turns as the tokens that the model sampled, and prompts that have these tokens again.

[child]
"""
