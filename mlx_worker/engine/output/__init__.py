"""Token ids to what a client reads: text, reasoning, tool calls, log-probabilities.

[child]
"""
