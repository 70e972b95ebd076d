"""Chat templates: what they take, and conversations brought into that form.

[child]
"""
