"""`mlx-worker doctor`: findings about the machine, the configuration and the service.

[front]
"""
