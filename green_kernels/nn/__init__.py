"""The layers, a module each, named as the ops they call."""

from green_kernels.nn.int8_linear import Int8Linear

__all__ = ["Int8Linear"]
