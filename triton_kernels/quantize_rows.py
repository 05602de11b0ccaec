"""quantize_rows in Triton: one program rounds BLOCK_M rows of x to int8."""

import math

import torch
import triton
import triton.language as tl

from .floats import TWO_ROUNDINGS, product, round_half_even, to_float32

TILE = 4096  # values of x in a program at a time: 32 to each of 128 threads, in registers


@triton.jit
def _load(x_ptr, m, k, M, K):
    at = m.to(tl.int64)[:, None] * K + k[None, :]  # M * K outgrows int32
    return to_float32(tl.load(x_ptr + at, (m < M)[:, None] & (k < K)[None, :], 0.0))


@triton.jit
def _store(x, inv, x_q_ptr, m, k, M, K):
    """Round x * inv to int8; a row whose inv is NaN becomes 0."""
    x_q = tl.clamp(round_half_even(product(x, inv[:, None])), -127.0, 127.0)
    x_q = tl.where((inv == inv)[:, None], x_q, 0.0)
    at = m.to(tl.int64)[:, None] * K + k[None, :]
    tl.store(x_q_ptr + at, x_q.to(tl.int8), (m < M)[:, None] & (k < K)[None, :])


@triton.jit
def _magnitude(x):
    """The bits of |x| as an int32: they order as |x| does, with infinity and then NaN on top."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _quantize_rows_kernel(
    x_ptr, x_q_ptr, scale_ptr,
    M, K,
    WHOLE: tl.constexpr,  # K <= BLOCK_K, so x is read once
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    k = tl.arange(0, BLOCK_K)

    x = _load(x_ptr, m, k, M, K)
    amax = tl.max(_magnitude(x), 1)
    if not WHOLE:
        for start in range(BLOCK_K, K, BLOCK_K):
            amax = tl.maximum(amax, tl.max(_magnitude(_load(x_ptr, m, start + k, M, K)), 1))

    # 2**-100, so that a row of zeros has a scale; NaN for a row that holds NaN or infinity.
    amax = tl.where(amax < 0x7F800000, tl.maximum(amax, 0x0D800000), 0x7FC00000)
    amax = amax.to(tl.float32, bitcast=True)
    tl.store(scale_ptr + m, tl.div_rn(amax, 127.0), m < M)
    inv = tl.div_rn(127.0, amax)

    _store(x, inv, x_q_ptr, m, k, M, K)
    if not WHOLE:
        for start in range(BLOCK_K, K, BLOCK_K):
            _store(_load(x_ptr, m, start + k, M, K), inv, x_q_ptr, m, start + k, M, K)


def launch(K):
    """How the kernel is launched for rows of K values: its constants and its options."""
    block_k = min(max(triton.next_power_of_2(K), 16), TILE)
    tile = {"WHOLE": K <= block_k, "BLOCK_M": TILE // block_k, "BLOCK_K": block_k}
    return tile, {"num_warps": 4, **TWO_ROUNDINGS}


def quantize_rows(x):
    """See green_kernels.ops.quantize_rows."""
    K, M = x.shape[-1], math.prod(x.shape[:-1])
    x_q = x.new_empty(x.shape, dtype=torch.int8)
    scale = x.new_empty(x.shape[:-1], dtype=torch.float32)
    if M:
        tile, options = launch(K)
        grid = (triton.cdiv(M, tile["BLOCK_M"]),)
        _quantize_rows_kernel[grid](x.contiguous(), x_q, scale, M, K, **tile, **options)
    return x_q, scale
