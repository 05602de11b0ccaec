"""Int8Linear: nn.Linear with int8 weights, multiplied with int8 activations."""

from green_kernels import ops
from green_kernels.nn.quantized_linear import QuantizedLinear
from green_kernels.recipes import Int8


class Int8Linear(QuantizedLinear):
    """y = act(q(x) @ w_q.T * x_scale * w_scale + bias), where q rounds each row of x to int8.

    See QuantizedLinear for the tensors, green_kernels.ops.int8_linear for the arithmetic.
    """

    KIND = Int8
    _op = staticmethod(ops.int8_linear)
    _packed = staticmethod(ops.pack_weight)
