"""What fits into the node's memory, and which model gives way.

[front]
"""
