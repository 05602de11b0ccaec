"""On a GPU, every plan gives the bits of the body: at awkward, at random and at models' sizes."""

import functools

import pytest
import torch
from float_sums import assert_near_body
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import SHAPES

import green_kernels as gk
from green_kernels.bench.shapes import SERVED
from green_kernels.ops import PLANS, int8_linear, int8_matmul, int8_weight_linear
from green_kernels.ops._extension import _C

pytestmark = pytest.mark.gpu

FLOATS = [torch.float32, torch.float16, torch.bfloat16]
OPS = [int8_matmul, int8_linear]
SMALL = {  # few blocks, for what is slow; at one of them, every plan is possible
    "a part of K for each of eight": (3, 130, 1100),
    "past the tiles of a cluster": (130, 260, 300),
}
AWKWARD = SMALL | {
    **{name: sizes for name, sizes in SHAPES.items() if sizes[0] and sizes[1]},
    "past the largest tiles": (520, 270, 130),
    "more steps than stages": (70, 72, 2112),
    "long rows of y": (9, 5000, 64),
}
OF_ROWS = ("x", "x_q", "x_scale", "residual")  # arguments that have a row for each of y
ROWS = 1024  # of y that are compared at a time: the body needs 8 bytes for each value of w, too


def arguments(op, M, N, K, dtype, device="cpu"):
    """By name, of int8_matmul or int8_linear: bias, residual and y in dtype, and x where it is."""
    if op is int8_linear:
        of_rows = {"x": torch.randn(M, K, device=device).to(dtype)}
    else:
        x_q = torch.randint(-127, 128, (M, K), dtype=torch.int8, device=device)
        of_rows = {"x_q": x_q, "x_scale": torch.rand(M, device=device) / 127}
    return of_rows | {
        "residual": torch.randn(M, N, device=device).to(dtype),
        "w_q": torch.randint(-127, 128, (N, K), dtype=torch.int8, device=device),
        "w_scale": torch.rand(N, device=device) / 127,
        "bias": torch.randn(N, device=device).to(dtype),
        "act": "relu",
        "out_dtype": dtype,
    }


@functools.cache
def example(op, sizes, dtype):
    """Arguments on the CPU and what the body makes of them there, so that a GPU runs our kernels
    alone: a sanitizer would look at torch's too."""
    args = arguments(op, *sizes, dtype)
    return args, op.reference(**args)


def to(device, args):
    return {name: a.to(device) if torch.is_tensor(a) else a for name, a in args.items()}


@pytest.fixture
def gpu():
    return gk.ops.gpu_of(torch.device("cuda"))


def possible(op, sizes, gpu):
    of_op = _C.plans.possible(*sizes, gpu, op is int8_linear)
    return {plan.name for plan in of_op}


def check_plan(plan, sizes, gpu, device, assert_same_bits):
    """Compare both ops with the body; skip where the plan is possible for neither at any size."""
    ran = 0
    for number, size in enumerate(sizes):
        for op in OPS:
            if plan not in possible(op, size, gpu):
                continue
            args, expected = example(op, size, FLOATS[number % 3])
            with gk.ops.use_plan(plan):
                actual = op(**to(device, args))
            assert_same_bits(actual.cpu(), expected)
            ran += 1
    if not ran:
        pytest.skip(f"{plan} is not possible on this GPU")


@pytest.mark.parametrize("plan", PLANS)
def test_small_products(plan, gpu, device, assert_same_bits):
    check_plan(plan, SMALL.values(), gpu, device, assert_same_bits)


@pytest.mark.parametrize("plan", PLANS)
def test_awkward_products(plan, gpu, device, assert_same_bits):
    check_plan(plan, AWKWARD.values(), gpu, device, assert_same_bits)


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 2**32 - 1),
    op=st.sampled_from(OPS),
    M=st.integers(1, 600),
    N=st.integers(1, 600),
    K=st.integers(0, 3000),
    dtype=st.sampled_from(FLOATS),
)
def test_random_products_by_random_plans(data, seed, op, M, N, K, dtype):
    gpu = gk.ops.gpu_of(torch.device("cuda"))
    plan = data.draw(st.sampled_from(sorted(possible(op, (M, N, K), gpu))))
    torch.manual_seed(seed)
    args = arguments(op, M, N, K, dtype, "cuda")
    with gk.ops.use_plan(plan):
        actual = op(**args)
    assert torch.equal(actual, op.reference(**args))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
def test_models_products_by_the_chosen_plan(op, device):
    for shape, (M, K, N) in SERVED.items():
        args = arguments(op, M, N, K, torch.bfloat16, device)
        actual = op(**args)
        assert actual.dtype == torch.bfloat16 and actual.shape == (M, N)
        for first in range(0, M, ROWS):
            rows = slice(first, first + ROWS)
            part = {name: args[name][rows] for name in OF_ROWS if name in args}
            assert torch.equal(actual[rows], op.reference(**args | part)), (shape, rows)


def test_models_products_by_weights(device):
    for M, K, N in SERVED.values():
        args = arguments(int8_linear, M, N, K, torch.bfloat16, device)
        y = int8_weight_linear(**args)
        for first in range(0, M, ROWS):
            rows = slice(first, first + ROWS)
            part = {name: args[name][rows] for name in ("x", "residual")}
            assert_near_body(y[rows], **args | part)
