"""quantize_rows: every backend against the body of the op, and the body against known rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import inf, nan

from green_kernels.ops import quantize_rows, use

FLOATS = [torch.float32, torch.float16, torch.bfloat16]

SHAPES = {
    "no rows": (0, 32),
    "no columns": (3, 0),
    "one number": (1, 1),
    "one row, as in decoding": (1, 4096),
    "odd": (7, 129),
    "past a block of the Triton kernel": (3, 5000),
    "past what a block of CUDA threads holds": (1, 70_000),
    "a vector": (17,),
    "leading batch dimensions": (2, 3, 5, 48),
}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_value(shape, dtype, device, backend, assert_same_bits):
    x = torch.randn(shape, device=device).to(dtype) * 10
    x_q, scale = quantize_rows(x)
    expected_q, expected_scale = quantize_rows.reference(x)
    assert_same_bits(x_q, expected_q)
    assert_same_bits(scale, expected_scale)


def test_rows_known_by_hand(device, backend):
    x = torch.tensor(
        [
            [127, -127, 0.5, 1.5, 2.5, -0.5],  # halves go to the even neighbour
            [0, 0, 0, 0, 0, 0],
            [1, 0.5, -0.25, 0, 0, 0],
            [1e-38, -1e-38, 0, 0, 0, 0],  # below the floor of amax: rounds to nothing
        ],
        device=device,
    )
    x_q, scale = quantize_rows(x)
    assert x_q.tolist() == [
        [127, -127, 0, 2, 2, 0],
        [0] * 6,
        [127, 64, -32, 0, 0, 0],
        [0] * 6,
    ]
    floor = 2.0**-100 / 127
    expected = torch.tensor([1, floor, 1 / 127, floor], device=device)
    assert torch.equal(scale, expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_row_that_is_not_finite_is_marked(bad, dtype, device, backend):
    x = torch.randn(4, 70, device=device).to(dtype)
    x[1, 3] = x[3, 69] = bad
    x_q, scale = quantize_rows(x)
    assert scale.isnan().tolist() == [False, True, False, True]
    assert not x_q[[1, 3]].any() and x_q[[0, 2]].any()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_extremes_of_the_dtype(dtype, device, backend, assert_same_bits):
    info = torch.finfo(dtype)
    x = torch.tensor([[info.max, info.min, 1], [info.tiny, -info.tiny, 0]], device=device)
    x = torch.cat([x.to(dtype), x.to(dtype) / 2])  # subnormal
    for actual, expected in zip(quantize_rows(x), quantize_rows.reference(x), strict=True):
        assert_same_bits(actual, expected)


def test_every_float16(device, backend, assert_same_bits):
    """All finite values, of which some row has each as its largest."""
    x = torch.arange(0, 0x7C00, dtype=torch.int16, device=device).view(torch.float16)
    rows = torch.stack([x, -x / 3, x / 7], -1)
    for actual, expected in zip(quantize_rows(rows), quantize_rows.reference(rows), strict=True):
        assert_same_bits(actual, expected)


def test_strides(device, backend, assert_same_bits):
    base = torch.randn(40, 60, device=device)
    for x in (base.T, base[:, ::2], base[::3], base[None].expand(3, 40, 60)):
        for actual, expected in zip(quantize_rows(x), quantize_rows.reference(x), strict=True):
            assert_same_bits(actual, expected)


@settings(max_examples=40, deadline=None)
@given(M=st.integers(0, 9), K=st.integers(0, 300), seed=st.integers(0, 2**32))
def test_any_shape(M, K, seed):
    x = torch.randn(M, K, generator=torch.Generator().manual_seed(seed))
    for actual, expected in zip(quantize_rows(x), quantize_rows.reference(x), strict=True):
        assert torch.equal(actual, expected)


def test_no_gradient(device, backend):
    x_q, scale = quantize_rows(torch.randn(3, 8, device=device, requires_grad=True))
    assert not x_q.requires_grad and not scale.requires_grad


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_registration(dtype, device, backend):
    x = torch.randn(7, 20, device=device).to(dtype)
    torch.library.opcheck(quantize_rows.overload, (x,))


def test_compiles_whole(device, backend, assert_same_bits):
    x = torch.randn(7, 20, device=device)
    compiled = torch.compile(quantize_rows, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(compiled(x), quantize_rows(x), strict=True):
        assert_same_bits(actual, expected)


ERRORS = {
    "integers": (torch.ones(2, 3, dtype=torch.int64), "x must be floating point, got torch.int64"),
    "float64": (
        torch.ones(2, 3, dtype=torch.float64),
        "x must be float32, float16 or bfloat16, got torch.float64",
    ),
    "float8": (
        torch.ones(2, 3).to(torch.float8_e4m3fn),
        "x must be float32, float16 or bfloat16, got torch.float8_e4m3fn",
    ),
    "a number": (torch.tensor(1.0), r"x must have shape \(..., K\), got \(\)"),
}


@pytest.mark.parametrize("x, message", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("to", ["cpu", "meta"])
def test_errors(x, message, to, backend):
    with pytest.raises(RuntimeError, match=f"^{message}"):
        quantize_rows(x.to(to))


def test_backend_must_be_known():
    with pytest.raises(ValueError, match="backend must be one of compiled, triton, got 'cuda'"):
        with use("cuda"):
            pass
