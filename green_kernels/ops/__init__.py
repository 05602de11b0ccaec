"""The ops, a module each, named as their kernels are in csrc/ and triton_kernels/."""

from green_kernels.ops._op import BACKENDS, OPS, use
from green_kernels.ops.int8_linear import int8_linear
from green_kernels.ops.int8_matmul import ACTIVATIONS, MAX_K, int8_matmul
from green_kernels.ops.int8_weight_linear import int8_weight_linear
from green_kernels.ops.pack import is_fast_on_cpu, pack_weight, pad_weight
from green_kernels.ops.plans import (
    PLANS,
    gpu_of,
    predicted_gain,
    read_measured_plans,
    use_measured_plans,
    use_plan,
)
from green_kernels.ops.quantize_rows import quantize_rows

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "MAX_K",
    "OPS",
    "PLANS",
    "gpu_of",
    "int8_linear",
    "int8_matmul",
    "int8_weight_linear",
    "is_fast_on_cpu",
    "pack_weight",
    "pad_weight",
    "predicted_gain",
    "quantize_rows",
    "read_measured_plans",
    "use",
    "use_measured_plans",
    "use_plan",
]
