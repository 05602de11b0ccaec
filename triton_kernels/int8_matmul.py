"""int8_matmul in Triton: a program computes BLOCK_M x BLOCK_N tiles of y, whole rows deep.

There are two kernels. One loads by pointers and computes one tile. The other, for sm_90 and later,
loads by tensor descriptors, which the launch encodes, and computes tile on tile, so that what the
next one needs comes in while this one is finished. int8_matmul_tiles.json says which is for what.
(Where wgmma multiplies, what came by pointers must be fenced, and Triton 3.6 leaves that out after
16-byte copies. So on sm_90 all that they could load goes to the second, but for 16 rows or fewer.)
"""

import functools
import math

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from . import int8_matmul_tiles as tiles
from .epilogue import finish
from .floats import TWO_ROUNDINGS

# Sums in a tile that is finished in halves if it has more: 128 to a thread leave no registers for
# as many values of y and of residual beside them.
HALVED = tl.constexpr(128 * 128)


@triton.jit
def place(tile, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """The tile's number among those of rows, and among those of columns."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    return tl.swizzle2d(tile // tiles_n, tile % tiles_n, tiles_m, tiles_n, GROUP_M)


@triton.jit
def _int8_matmul_kernel(
    x_q_ptr, x_scale_ptr, w_q_ptr, w_scale_ptr, bias_ptr, residual_ptr, y_ptr,
    M, N, K,
    ACT: tl.constexpr, PRECISE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = place(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP_M)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)

    x_q_ptrs = x_q_ptr + m.to(tl.int64)[:, None] * K + k[None, :]  # M * K outgrows int32
    w_q_ptrs = w_q_ptr + n.to(tl.int64)[:, None] * K + k[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for start in range(0, K, BLOCK_K):
        in_k = (k < K - start)[None, :]
        x_q = tl.load(x_q_ptrs + start, (m < M)[:, None] & in_k, 0)
        w_q = tl.load(w_q_ptrs + start, (n < N)[:, None] & in_k, 0)
        acc = tl.dot(x_q, w_q.T, acc, out_dtype=tl.int32)
    finish(
        acc, x_scale_ptr, w_scale_ptr, bias_ptr, residual_ptr, y_ptr, m, n, M, N, ACT, PRECISE
    )  # fmt: skip


@triton.jit
def _int8_matmul_persistent_kernel(
    x_q, x_scale_ptr, w_q, w_scale_ptr, bias_ptr, residual_ptr, y_ptr,
    M, N, K,
    ACT: tl.constexpr, PRECISE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):  # fmt: skip
    count = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    # Flattened into one loop over the steps of all tiles, so that loads run ahead across tiles.
    for tile in tl.range(tl.program_id(0), count, tl.num_programs(0), flatten=True):
        tile_m, tile_n = place(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
        for start in range(0, K, BLOCK_K):
            x_tile = x_q.load([tile_m * BLOCK_M, start])  # 0 beyond the edges
            w_tile = w_q.load([tile_n * BLOCK_N, start])
            acc = tl.dot(x_tile, w_tile.T, acc, out_dtype=tl.int32)
        m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
        n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        if BLOCK_M * BLOCK_N <= HALVED:
            finish(
                acc, x_scale_ptr, w_scale_ptr, bias_ptr, residual_ptr, y_ptr,
                m, n, M, N, ACT, PRECISE,
            )  # fmt: skip
        else:
            halves = tl.permute(tl.reshape(acc, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1))
            left, right = tl.split(halves)
            n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N // 2)
            finish(
                left, x_scale_ptr, w_scale_ptr, bias_ptr, residual_ptr, y_ptr,
                m, n, M, N, ACT, PRECISE,
            )  # fmt: skip
            finish(
                right, x_scale_ptr, w_scale_ptr, bias_ptr, residual_ptr, y_ptr,
                m, n + BLOCK_N // 2, M, N, ACT, PRECISE,
            )  # fmt: skip


def launch(M, N, K, arch, precise=False, aligned=True):
    """How a product is launched on an architecture such as 90: constants, options, resident.

    precise: with float64 activations;  aligned: x_q and w_q begin at multiples of 16 bytes
    resident: programs to a multiprocessor, of the kernel that loads by tensor descriptors, which
        needs rows so aligned too; 0: by the other kernel.
    """
    row = tiles.choose(M, N, K, arch, heavy=bool(precise or N % 16 or K % 16))
    block_k = 32 if K % 16 else row.BLOCK_K  # byte by byte, so fewer at a time
    tile = {"BLOCK_M": row.BLOCK_M, "BLOCK_N": row.BLOCK_N, "BLOCK_K": block_k}
    options = {"num_warps": row.num_warps, "num_stages": row.num_stages, **TWO_ROUNDINGS}
    described = row.persistent and aligned and K > 0 and K % 16 == 0
    return {**tile, "GROUP_M": row.GROUP_M}, options, row.resident if described else 0


@functools.cache
def gpu_of(device):
    """The architecture of a device, as 90, and its multiprocessors."""
    if device.type != "cuda":  # Triton's interpreter
        return 80, 1
    properties = torch.cuda.get_device_properties(device)
    return properties.major * 10 + properties.minor, properties.multi_processor_count


def int8_matmul(
    x_q, x_scale, w_q, w_scale, bias=None, residual=None, act="none", out_dtype=None, w_packed=None
):
    """See green_kernels.ops.int8_matmul. w_packed is for compiled kernels, and not used here."""
    (N, K), M = w_q.shape, math.prod(x_q.shape[:-1])
    y = x_q.new_empty((*x_q.shape[:-1], N), dtype=out_dtype or torch.float32)
    if y.numel() == 0:
        return y
    x_q, x_scale, w_q, w_scale, bias, residual = (
        None if t is None else t.contiguous() for t in (x_q, x_scale, w_q, w_scale, bias, residual)
    )
    precise = y.dtype == torch.float32 and act not in ("none", "relu")
    aligned = x_q.data_ptr() % 16 == 0 and w_q.data_ptr() % 16 == 0
    arch, sm_count = gpu_of(x_q.device)
    tile, options, resident = launch(M, N, K, arch, precise, aligned)
    programs = -(-M // tile["BLOCK_M"]) * -(-N // tile["BLOCK_N"])  # triton.cdiv is slow here
    kernel = _int8_matmul_kernel
    if resident:
        kernel, programs = _int8_matmul_persistent_kernel, min(programs, resident * sm_count)
        x_q = TensorDescriptor(x_q, [M, K], [K, 1], [tile["BLOCK_M"], tile["BLOCK_K"]])
        w_q = TensorDescriptor(w_q, [N, K], [K, 1], [tile["BLOCK_N"], tile["BLOCK_K"]])
    kernel[(programs,)](
        x_q, x_scale, w_q, w_scale, bias, residual, y, M, N, K, act, precise, **tile, **options
    )
    return y
