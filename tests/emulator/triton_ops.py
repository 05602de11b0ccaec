"""The ops on Triton's kernels, compiled ahead of time and emulated.

The launchers of triton_kernels/ run as they are: in their modules, each kernel is replaced by one
whose launch is compiled as Triton's would be and run by the emulator.
"""

import inspect
from contextlib import ExitStack, contextmanager
from importlib import import_module
from unittest.mock import patch

import torch
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

import emulator
from emulator.cuda_ops import drawn_seed
from emulator.tensor_maps import encode
from emulator.triton_compiler import compiler
from green_kernels.triton_kernels import int8_matmul

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int8: "*i8",
}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
KERNELS = [
    ("quantize_rows", "_quantize_rows_kernel"),
    ("int8_matmul", "_int8_matmul_kernel"),
    ("int8_matmul", "_int8_matmul_persistent_kernel"),
    ("int8_weight_linear", "_int8_weight_linear_kernel"),
]
MULTIPROCESSORS = (1, 3, 132)  # few of them make a persistent program compute several tiles


class EmulatedKernel:
    """In the place of a kernel, what its launches mean."""

    def __init__(self, module, name, kernel, arch):
        self.module, self.name, self.arch = module, name, arch
        parameters = inspect.signature(kernel.fn).parameters.values()
        self.parameters = {p.name: p.annotation is tl.constexpr for p in parameters}

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.launch(grid, args, kwargs)

    def launch(self, grid, args, kwargs):
        options = {key: kwargs.pop(key) for key in OPTIONS if key in kwargs}
        values = dict(zip(self.parameters, args, strict=False)) | kwargs
        kinds = {name: self.kind(name, values[name]) for name in self.parameters}
        passed = [name for name, kind in kinds.items() if kind != "constexpr"]
        compiled = compiler().compile(
            module=self.module, kernel=self.name, arch=self.arch, signature=kinds, options=options,
            constants={name: values[name] for name in kinds if name not in passed},
            divisible=[name for name in passed if is_divisible(values[name])],
        )  # fmt: skip
        maps = iter(compiled["maps"] or ())
        arguments = [a for name in passed for a in as_arguments(kinds[name], values[name], maps)]
        arguments += [("ptr", 0)] * 2  # scratch memory, of which these kernels want none
        with emulator.buffers(*(tensor for name in passed for tensor in memory_of(values[name]))):
            emulator.launch(
                compiled["ptx"], compiled["name"], (*grid, 1, 1)[:3], (compiled["threads"], 1, 1),
                shared=compiled["shared"], arguments=arguments,
                seed=drawn_seed(),
            )  # fmt: skip

    def kind(self, name, value):
        """How an argument is typed: as triton.jit specialises it, None and 1 are constants."""
        if self.parameters[name] or value is None or (isinstance(value, int) and value == 1):
            return "constexpr"
        if isinstance(value, torch.Tensor):
            return POINTERS[value.dtype]
        if isinstance(value, TensorDescriptor):
            return f"tensordesc<{POINTERS[value.base.dtype][1:]}{list(value.block_shape)}>"
        return "i32" if value < 2**31 else "i64"


def is_divisible(value):
    """Whether a launch tells the compiler that it is a multiple of 16."""
    number = value.data_ptr() if isinstance(value, torch.Tensor) else value
    return isinstance(number, int) and number % 16 == 0


def as_arguments(kind, value, maps):
    """What of an argument the compiled kernel takes; maps: of the descriptors that are left."""
    if isinstance(value, torch.Tensor):
        return [("ptr", value.data_ptr())]
    if not isinstance(value, TensorDescriptor):
        return [(kind, value)]
    how, size = next(maps), value.base.element_size()
    encoded = encode(
        how["elem_type"], value.base.data_ptr(), value.shape[::-1],
        [stride * size for stride in value.strides[-2::-1]], how["block_size"][::-1],
        swizzle=how["swizzle"],
    )  # fmt: skip
    sizes = [("i32", length) for length in value.shape]
    return [encoded, *sizes, *(("i64", stride) for stride in value.strides)]


def memory_of(value):
    """The tensors that a kernel reaches by an argument."""
    tensor = value.base if isinstance(value, TensorDescriptor) else value
    return [tensor] if isinstance(tensor, torch.Tensor) else []


def drawn_gpu(arch):
    """In the place of a launcher's gpu_of."""
    return lambda device: (arch, MULTIPROCESSORS[int(torch.randint(len(MULTIPROCESSORS), ()))])


@contextmanager
def emulated(arch):
    """Within this block, Triton's launchers launch on the emulator."""
    with ExitStack() as stack:
        for module, name in KERNELS:
            where = import_module(f"green_kernels.triton_kernels.{module}")
            kernel = EmulatedKernel(module, name, getattr(where, name), arch)
            stack.enter_context(patch.object(where, name, kernel))
        stack.enter_context(patch.object(int8_matmul, "gpu_of", drawn_gpu(arch)))
        yield


def kernels(arch):
    """The ops for one architecture by name, as green_kernels.ops.add_backend takes them."""

    def op(name):
        def run(*args, **kwargs):
            with emulated(arch):
                module = import_module(f"green_kernels.triton_kernels.{name}")
                return getattr(module, name)(*args, **kwargs)

        return run

    ops = ("quantize_rows", "int8_matmul", "int8_linear", "int8_weight_linear")
    return {name: op(name) for name in ops}
