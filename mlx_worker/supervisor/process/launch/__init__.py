"""Launch the processes of children: environment, temporary folder, spares, stderr.

[front]
"""
