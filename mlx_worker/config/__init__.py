"""The configuration of a node: one TOML file, checked and typed.

[both]
"""
