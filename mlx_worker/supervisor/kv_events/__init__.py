"""KV events: which blocks of a model's prompt cache exist, published in vLLM's wire format.

[front]
"""
