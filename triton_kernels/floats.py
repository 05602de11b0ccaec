"""Conversions and roundings whose every bit counts, the same compiled and in Triton's interpreter.

The interpreter (TRITON_INTERPRET=1, 3.6 to 3.9) truncates float32 to bfloat16 where a GPU rounds to
nearest even, and reads subnormal bfloat16 wrongly, so there both conversions are done on the bits.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# For every launch: a * b + c is two roundings, not one fused one.
TWO_ROUNDINGS = {"enable_fp_fusion": False}


@triton.jit
def product(a, b):
    """a * b in float32, rounded before anything is added to it.

    Said in PTX, because TWO_ROUNDINGS is not enough: Triton pairs up products and sums (f32x2), and
    the ptxas of Triton 3.6 fuses a pair of each for sm_100 and sm_120, .rn and --fmad=false or not.
    """
    if INTERPRETED:
        return a * b
    else:
        return tl.inline_asm_elementwise(
            "mul.rn.f32 $0, $1, $2;", "=f,f,f", [a, b], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def total(a, b):
    """a + b in float32, not fused with a product before it."""
    if INTERPRETED:
        return a + b
    else:
        return tl.inline_asm_elementwise(
            "add.rn.f32 $0, $1, $2;", "=f,f,f", [a, b], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def to_float32(x):
    """x, of any of the three float types, exactly."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def round_to(x, dtype: tl.constexpr):
    """x, float32, to the nearest value of dtype, and of two as near to the even one."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = tl.where(x == x, bits + 0x7FFF + ((bits >> 16) & 1), 0x7FC00000)
        return (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def round_half_even(x):
    """As torch.round, where |x| < 2**22: 1.5 * 2**23 more leaves a float32 no bits of fraction."""
    return total(x, 12582912.0) - 12582912.0
