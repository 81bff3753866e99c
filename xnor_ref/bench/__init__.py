"""Benchmarks: the binary kernels against the roof of the machine they run on, and against other libraries."""
