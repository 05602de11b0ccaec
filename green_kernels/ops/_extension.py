"""The compiled kernels, green_kernels._C, or None where they were not built."""

import importlib.util

import torch  # noqa: F401  (loads the libraries that _C links to)

if importlib.util.find_spec("green_kernels._C"):
    from green_kernels import _C  # importing it registers the C++ and CUDA kernels with torch
else:
    _C = None
