"""The layers, a module each, named as the ops they call."""

from green_kernels.nn.int8_linear import Int8Linear
from green_kernels.nn.int8_weight_linear import Int8WeightLinear

__all__ = ["Int8Linear", "Int8WeightLinear"]
LAYERS = {layer.KIND: layer for layer in (Int8Linear, Int8WeightLinear)}  # by kind of recipe
