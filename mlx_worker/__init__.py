"""A serving node for MLX language models.

Only the version lives here: importing any module of the front must not load mlx. [both]
"""

__version__ = "0.1.0"
