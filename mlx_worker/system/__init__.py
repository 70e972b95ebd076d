"""Access to the operating system: files, priorities, streams, titles.

[both]
"""
