"""The KV of prompts on disk: records found by what was read, kept between runs of a child.

No module of this room imports mlx: the front and the commands look into the folder too. [both]
"""
