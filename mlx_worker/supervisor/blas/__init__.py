"""The BLAS of children on a Linux CPU: found, built, tried, and preloaded.

MLX's CPU wheel brings the reference BLAS, which computes some 5 GFLOP/s. numpy's wheel brings an
OpenBLAS, which is ten times as fast and more. Whatever is missing or wrong, children compute with
MLX's own, and the log says why in one line.

[front]
"""
