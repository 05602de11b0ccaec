"""int8_matmul in Triton: one program computes a BLOCK_M x BLOCK_N tile of y, whole rows deep."""

import math

import torch
import triton
import triton.language as tl

from .epilogue import finish
from .floats import TWO_ROUNDINGS

# BLOCK_M, BLOCK_N, BLOCK_K, warps, stages, largest first. The stages fill 96 KB of shared memory at
# the most, since sm_86, sm_89 and sm_120 have 99.
TILES = ((128, 128, 128, 8, 3), (64, 128, 128, 4, 4), (64, 64, 128, 4, 4))
SMALL_TILES = ((64, 64, 128, 8, 4),)  # 16 sums to a thread, where each needs many registers
ROW_TILES = ((16, 64, 256, 4, 4),)  # 16 rows: the least that tl.dot takes
PROGRAMS = 128  # to keep every multiprocessor of a large GPU busy: an A100 has 108, an H100 132
GROUP_M = 8  # tiles of rows that share the columns of w_q in L2


@triton.jit
def _int8_matmul_kernel(
    x_q_ptr, x_scale_ptr, w_q_ptr, w_scale_ptr, bias_ptr, residual_ptr, y_ptr,
    M, N, K,
    ACT: tl.constexpr, PRECISE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):  # fmt: skip
    tile_m, tile_n = tl.swizzle2d(
        tl.program_id(0) // tl.cdiv(N, BLOCK_N), tl.program_id(0) % tl.cdiv(N, BLOCK_N),
        tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M,
    )  # fmt: skip
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


def launch(M, N, K, precise):
    """How the kernel is launched for these sizes: its tile's constants and its options."""
    # float64 takes twice the registers, and rows off 16 bytes an address for every value.
    small = precise or N % 16 or K % 16
    tiles = ROW_TILES if M <= 16 else SMALL_TILES if small else TILES[M <= 64 :]
    busy = [t for t in tiles if triton.cdiv(M, t[0]) * triton.cdiv(N, t[1]) >= PROGRAMS]
    block_m, block_n, block_k, warps, stages = busy[0] if busy else tiles[-1]
    block_k = 32 if K % 16 else block_k  # byte by byte, so fewer at a time
    tile = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": GROUP_M}
    return tile, {"num_warps": warps, "num_stages": stages, **TWO_ROUNDINGS}


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
    tile, options = launch(M, N, K, precise)
    grid = (triton.cdiv(M, tile["BLOCK_M"]) * triton.cdiv(N, tile["BLOCK_N"]),)
    _int8_matmul_kernel[grid](
        x_q, x_scale, w_q, w_scale, bias, residual, y, M, N, K,
        act, precise,
        **tile, **options,
    )  # fmt: skip
    return y
