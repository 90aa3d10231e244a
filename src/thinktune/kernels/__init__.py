"""Triton kernels: what a CUDA device runs in place of the plain PyTorch of `thinktune.ops`."""
