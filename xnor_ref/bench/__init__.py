"""Benchmarks: the binary kernels against the roof of the machine they run on, and against other libraries.

Everything is measured side by side in one process, and every ratio names its baseline. Needs Numba's compiler; torch,
onnxruntime and matplotlib are optional.
"""
