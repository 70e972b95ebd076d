"""What commands print of a node: tables and lines for people, JSON for programs.

[front]
"""
