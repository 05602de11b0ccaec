"""The ops on emulated CUDA kernels: what csrc/cuda/*.cpp do of them, with tensors of the CPU.

Each call is a launch on a device of its own, whose size and whose order of events are drawn by
torch's generator: so all tiles get their turn, and a failing test fails again.
"""

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F

import emulator
from green_kernels._C import plans

ACTS = ("none", "relu", "gelu", "gelu_tanh", "silu")  # Act of csrc/types.h
FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # Float of csrc/types.h
CHUNK = 16  # bytes: rows of int8 begin at multiples of them, as kChunk of csrc/types.h says
SM_COUNTS = (1, 4, 132)  # few of them make the launcher prefer large tiles


def poisoned(*shape, dtype):
    """An output that no kernel has written: NaN, or -91."""
    return (
        torch.full((math.prod(shape) * dtype.itemsize,), 0xA5, dtype=torch.uint8)
        .view(dtype)
        .view(shape)
    )


def aligned_rows(q):
    """q (..., K) as (rows, K) whose rows begin at multiples of CHUNK bytes."""
    K = q.shape[-1]
    rows = q.reshape(math.prod(q.shape[:-1]), K)
    return F.pad(rows, (0, -K % CHUNK), value=77).contiguous()  # 77: no kernel may use it


def address(tensor):
    return 0 if tensor is None else tensor.data_ptr()


def number(dtype):
    return FLOATS.index(dtype)


def number_or_any(tensor):
    return 0 if tensor is None else number(tensor.dtype)


def drawn_seed():
    """Of one launch: drawn even where EMULATOR_SEED decides, so that all else stays the same."""
    seed = int(torch.randint(1, 2**31, ()))
    return emulator.SEED or seed


class CudaOps:
    """The ops of one module of launchers on one kind of device.

    plan: of every product; None for what the chooser takes
    """

    def __init__(self, preset, kernels=None, plan=None):
        self.preset = preset
        self.kernels = kernels or emulator.kernels
        self.plan = plan
        self.traffic = []  # of the last call

    @contextmanager
    def launching(self, *outputs, readonly, device=None):
        device = device or self.drawn_device()
        with (
            emulator.device(device, seed=drawn_seed()),
            emulator.buffers(*outputs, readonly=readonly),
        ):
            yield self.kernels()
            emulator.synchronize()
            self.traffic = emulator.runtime().traffic()

    def drawn_device(self):
        return self.preset._replace(sm_count=SM_COUNTS[int(torch.randint(len(SM_COUNTS), ()))])

    def planned(self, device, M, N, K, from_float):
        """The plan for a product on a device, the fields of its Launch, and its workspace."""
        arch = device.major * 10 + device.minor
        gpu = plans.Gpu(arch, device.sm_count, device.shared_optin, has_sm90a=arch == 90)
        plan = self.plan or plans.choose(M, N, K, gpu, from_float)
        workspace = poisoned(plan.workspace_bytes(M, N), dtype=torch.uint8)
        fields = {
            "kernel": int(plan.kernel), "tile": plan.tile, "splits": plan.splits,
            "workspace": address(workspace),
        }  # fmt: skip
        return plan, fields, workspace

    def quantize_rows(self, x):
        """See green_kernels.ops.quantize_rows."""
        x, K = x.contiguous(), x.shape[-1]
        x_q = poisoned(*x.shape, dtype=torch.int8)
        scale = poisoned(*x.shape[:-1], dtype=torch.float32)
        with self.launching(x_q, scale, readonly=[x]) as kernels:
            raise_if(
                kernels.quantize_rows_cuda(
                    x=address(x), dtype=number(x.dtype), x_q=address(x_q), x_q_stride=K,
                    scale=address(scale), M=scale.numel(), K=K,
                )
            )  # fmt: skip
        return x_q, scale

    def int8_matmul(
        self, x_q, x_scale, w_q, w_scale, bias=None, residual=None, act="none", out_dtype=None,
        w_packed=None,
    ):  # fmt: skip
        """See green_kernels.ops.int8_matmul."""
        y = poisoned(*x_q.shape[:-1], w_q.shape[0], dtype=out_dtype or torch.float32)
        x_q, x_scale = aligned_rows(x_q), x_scale.contiguous()
        fields, tensors = self.matmul(w_q, w_scale, bias, residual, act, y, x_q.shape[0])
        device = self.drawn_device()
        _, launch, workspace = self.planned(device, x_q.shape[0], *w_q.shape, from_float=False)
        readonly = [x_q, x_scale, *tensors]
        with self.launching(y, workspace, readonly=readonly, device=device) as kernels:
            raise_if(
                kernels.int8_matmul_cuda(
                    x_q=address(x_q), x_scale=address(x_scale), **fields, **launch
                )
            )
        return y

    def int8_linear(
        self, x, w_q, w_scale, bias=None, act="none", residual=None, out_dtype=None, w_packed=None
    ):
        """See green_kernels.ops.int8_linear."""
        x, (N, K), M = x.contiguous(), w_q.shape, math.prod(x.shape[:-1])
        y = poisoned(*x.shape[:-1], N, dtype=out_dtype or x.dtype)
        fields, tensors = self.matmul(w_q, w_scale, bias, residual, act, y, M)
        device = self.drawn_device()
        plan, launch, workspace = self.planned(device, M, N, K, from_float=True)
        x_q = x_scale = None
        if not plan.quantizes:
            x_q = poisoned(M, K + -K % CHUNK, dtype=torch.int8)
            x_scale = poisoned(M, dtype=torch.float32)
        outputs, readonly = (y, x_q, x_scale, workspace), [x, *tensors]
        with self.launching(*outputs, readonly=readonly, device=device) as kernels:
            raise_if(
                kernels.int8_linear_cuda(
                    x=address(x), x_dtype=number(x.dtype), x_q=address(x_q),
                    x_scale=address(x_scale), **fields, **launch,
                )
            )  # fmt: skip
        return y

    def int8_weight_linear(
        self, x, w_q, w_scale, bias=None, act="none", residual=None, out_dtype=None, w_packed=None
    ):
        """See green_kernels.ops.int8_weight_linear."""
        x, M = x.contiguous(), math.prod(x.shape[:-1])
        y = poisoned(*x.shape[:-1], w_q.shape[0], dtype=out_dtype or x.dtype)
        fields, tensors = self.matmul(w_q, w_scale, bias, residual, act, y, M)
        with self.launching(y, readonly=[x, *tensors]) as kernels:
            raise_if(
                kernels.int8_weight_linear_cuda(x=address(x), x_dtype=number(x.dtype), **fields)
            )
        return y

    @staticmethod
    def matmul(w_q, w_scale, bias, residual, act, y, M):
        """The fields of Int8Matmul but x_q and x_scale, and the tensors behind them."""
        N, K = w_q.shape
        w_q, w_scale = aligned_rows(w_q), w_scale.contiguous()
        bias, residual = (None if t is None else t.contiguous() for t in (bias, residual))
        fields = {
            "w_q": address(w_q), "w_scale": address(w_scale),
            "bias": address(bias), "bias_dtype": number_or_any(bias),
            "residual": address(residual), "residual_dtype": number_or_any(residual),
            "y": address(y), "y_dtype": number(y.dtype), "act": ACTS.index(act),
            "x_q_stride": K + -K % CHUNK, "w_q_stride": K + -K % CHUNK, "M": M, "N": N, "K": K,
        }  # fmt: skip
        return fields, (w_q, w_scale, bias, residual)

    def all(self):
        """Them by name, as green_kernels.ops.add_backend takes them."""
        names = "quantize_rows", "int8_matmul", "int8_linear", "int8_weight_linear"
        return {name: getattr(self, name) for name in names}


def raise_if(error):
    if error is not None:
        raise RuntimeError(error)
