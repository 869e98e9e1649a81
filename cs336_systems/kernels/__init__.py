"""Kernels: each file holds a reference, an autograd.Function in PyTorch and one in Triton."""
