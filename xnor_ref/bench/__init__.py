"""Benchmarks: the binary kernels against the roof of the machine that they run on, and against other libraries."""
