"""Int8WeightLinear: nn.Linear with int8 weights, whose activations stay as they are."""

from green_kernels import ops
from green_kernels.nn.quantized_linear import QuantizedLinear
from green_kernels.recipes import Int8WeightOnly


class Int8WeightLinear(QuantizedLinear):
    """y = act((x @ w_q.T) * w_scale + bias), x in its own dtype.

    See QuantizedLinear for the tensors, green_kernels.ops.int8_weight_linear for the arithmetic.
    """

    KIND = Int8WeightOnly
    _op = staticmethod(ops.int8_weight_linear)
    _packed = staticmethod(ops.pad_weight)
