"""The models folder: what lies in it, and how a model gets there.

[both]
"""
