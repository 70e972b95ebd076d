"""One model over several processes: what rank 0 does to the batch is done by every rank.

[child]
"""
