"""The node as a service of its system: launchd on macOS, systemd on Linux.

[front]
"""
