"""Bit layout, kernels and their checked entry points. Import the submodules. A kernel is compiled at its first call."""
