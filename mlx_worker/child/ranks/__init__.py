"""A child that computes one model together with others: rank 0, and those that follow.

[child]
"""
