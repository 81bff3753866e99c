"""Functions that live elsewhere: in a worker process, a program, a C library, or on torch tensors."""
