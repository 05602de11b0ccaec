"""int8_weight_linear in Triton: a program computes a BLOCK_M x BLOCK_N tile of y, whole rows deep.

The tile is computed as its transpose, w_q @ x.T: tensor cores take the left matrix from registers,
where w_q is after it has been converted to the dtype of x, and x from shared memory as it came.
"""

import math

import triton
import triton.language as tl

from .epilogue import finish
from .floats import INTERPRETED, to_float32
from .int8_matmul import place

# BLOCK_M, BLOCK_N, BLOCK_K, warps, stages, largest first. The stages fill 96 KB of shared memory at
# the most, since sm_86, sm_89 and sm_120 have 99. Derived from that; no GPU has measured them.
TILES = ((128, 128, 64, 8, 4), (64, 128, 64, 4, 4), (64, 64, 64, 4, 4))
SMALL_TILES = ((64, 64, 64, 8, 4),)  # 16 sums to a thread, where each needs many registers
ROW_TILES = ((16, 64, 128, 4, 4),)  # 16 rows: the least that tl.dot takes
# float32 is not for tensor cores, which would round it to tf32.
FLOAT32_TILES = ((64, 64, 64, 8, 2),)
FLOAT32_ROW_TILES = ((16, 64, 64, 4, 2),)
PROGRAMS = 128  # to keep every multiprocessor of a large GPU busy: an A100 has 108, an H100 132
GROUP_M = 8  # tiles of rows that share the columns of w_q in L2


@triton.jit
def _int8_weight_linear_kernel(
    x_ptr, w_q_ptr, w_scale_ptr, bias_ptr, residual_ptr, y_ptr,
    M, N, K,
    ACT: tl.constexpr, PRECISE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = place(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP_M)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)

    x_ptrs = x_ptr + m.to(tl.int64)[:, None] * K + k[None, :]  # M * K outgrows int32
    w_q_ptrs = w_q_ptr + n.to(tl.int64)[:, None] * K + k[None, :]
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in range(0, K, BLOCK_K):
        in_k = (k < K - start)[None, :]
        x = tl.load(x_ptrs + start, (m < M)[:, None] & in_k, 0)
        w_q = tl.load(w_q_ptrs + start, (n < N)[:, None] & in_k, 0)
        if INTERPRETED:  # which reads infinite and subnormal bfloat16 wrongly
            x = to_float32(x)
        acc = tl.dot(w_q.to(x.dtype), x.T, acc, input_precision="ieee")
    finish(
        acc.T, None, w_scale_ptr, bias_ptr, residual_ptr, y_ptr, m, n, M, N, ACT, PRECISE
    )  # fmt: skip


def launch(M, N, K, itemsize, precise):
    """How the kernel is launched for these sizes: its tile's constants and its options.

    itemsize: bytes of a value of x;  precise: with float64 activations
    """
    # float64 takes twice the registers, and rows off 16 bytes an address for every value.
    small = precise or N % 16 or K % 16
    if itemsize == 4:
        tiles = FLOAT32_ROW_TILES if M <= 16 else FLOAT32_TILES
    else:
        tiles = ROW_TILES if M <= 16 else SMALL_TILES if small else TILES[M <= 64 :]
    busy = [t for t in tiles if triton.cdiv(M, t[0]) * triton.cdiv(N, t[1]) >= PROGRAMS]
    block_m, block_n, block_k, warps, stages = busy[0] if busy else tiles[-1]
    block_k = 32 if K % 16 else block_k  # byte by byte, so fewer at a time
    tile = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": GROUP_M}
    # Sums have no one order here, so products may be fused with them. (What `finish` rounds by
    # itself, it does in PTX.)
    return tile, {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def int8_weight_linear(
    x, w_q, w_scale, bias=None, act="none", residual=None, out_dtype=None, w_packed=None
):
    """See green_kernels.ops.int8_weight_linear. w_packed is for CUDA kernels, and not used here."""
    (N, K), M = w_q.shape, math.prod(x.shape[:-1])
    y = x.new_empty((*x.shape[:-1], N), dtype=out_dtype or x.dtype)
    if y.numel() == 0:
        return y
    x, w_q, w_scale, bias, residual = (
        None if t is None else t.contiguous() for t in (x, w_q, w_scale, bias, residual)
    )
    precise = y.element_size() == 4 and act not in ("none", "relu")
    tile, options = launch(M, N, K, x.element_size(), precise)
    programs = triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(N, tile["BLOCK_N"])
    _int8_weight_linear_kernel[(programs,)](
        x, w_q, w_scale, bias, residual, y, M, N, K, act, precise, **tile, **options
    )
    return y
