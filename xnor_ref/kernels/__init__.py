"""Bit layout, kernels and their checked entry points. Import the submodules; nothing is compiled before it is used."""
