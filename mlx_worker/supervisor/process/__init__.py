"""One child process: its states, its pipe, its start, its end and its spares.

[front]
"""
