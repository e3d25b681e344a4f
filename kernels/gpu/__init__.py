"""The ops as Triton kernels for CUDA: one module an op, imported only where Triton is to run.

A module holds its kernels, `refusal`, which says why it does not take some operands, and the op with its gradients.
"""
