"""The ops on Triton's kernels, compiled ahead of time and emulated.

The launchers of triton_kernels/ run as they are: in their modules, each kernel is replaced by one
whose launch is compiled as Triton's would be and run by the emulator.
"""

import inspect
from contextlib import contextmanager
from importlib import import_module

import torch
import triton.language as tl

import emulator
from emulator.cuda_ops import drawn_seed
from emulator.triton_compiler import compiler

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int8: "*i8",
}
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
KERNELS = {"quantize_rows": "_quantize_rows_kernel", "int8_matmul": "_int8_matmul_kernel"}


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
            divisible=[name for name in passed if as_number(values[name]) % 16 == 0],
        )  # fmt: skip
        arguments = [(kind_of_number(kinds[name]), as_number(values[name])) for name in passed]
        arguments += [("ptr", 0)] * 2  # scratch memory, of which these kernels want none
        with emulator.buffers(*(values[name] for name in passed if kinds[name][0] == "*")):
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
        return "i32" if value < 2**31 else "i64"


def as_number(value):
    return value.data_ptr() if isinstance(value, torch.Tensor) else value


def kind_of_number(kind):
    return "ptr" if kind.startswith("*") else kind


@contextmanager
def emulated(arch):
    """Within this block, Triton's launchers launch on the emulator."""
    before = {}
    for module, name in KERNELS.items():
        where = import_module(f"green_kernels.triton_kernels.{module}")
        before[where, name] = getattr(where, name)
        setattr(where, name, EmulatedKernel(module, name, getattr(where, name), arch))
    try:
        yield
    finally:
        for (where, name), kernel in before.items():
            setattr(where, name, kernel)


def kernels(arch):
    """The ops for one architecture by name, as green_kernels.ops.add_backend takes them."""

    def op(name):
        def run(*args, **kwargs):
            with emulated(arch):
                module = import_module(f"green_kernels.triton_kernels.{name}")
                return getattr(module, name)(*args, **kwargs)

        return run

    return {name: op(name) for name in ("quantize_rows", "int8_matmul", "int8_linear")}
