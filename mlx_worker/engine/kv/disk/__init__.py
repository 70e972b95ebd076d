"""The KV of prompts on disk: records found by what was read, kept between runs of a child.

No module of this room but `arrays` imports mlx. [child]
"""
