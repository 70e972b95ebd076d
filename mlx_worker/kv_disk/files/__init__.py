"""What the folder of the KV on disk holds: records in segments, their keys, indexes and names.

[both]
"""
