"""How a model gets into the models folder: download, convert, check, publish.

[front]
"""
