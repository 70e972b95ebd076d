"""The KV of prompts: its cost, its storage between requests, and prefixes to reuse.

[child]
"""
