"""The sums of int8_weight_linear on the CPU, by each of the instruction sets that this one has."""

import ctypes
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from float_sums import assert_near_body

CXX = shlex.split(os.environ.get("CXX", "")) or ["g++"]
# As setup.py has them; the warnings are of this file's own.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"]
DTYPES = {
    "least": torch.float32,
    "avx2": torch.float32,
    "avx512": torch.float32,
    "avx512bf16": torch.bfloat16,
}
GUARD = 64  # values after the sums, which nobody writes

pytestmark = pytest.mark.skipif(shutil.which(CXX[0]) is None, reason=f"needs {CXX[0]}")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The kernels, with no torch."""
    target = tmp_path_factory.mktemp("dot_columns") / "dot_columns.so"
    source = Path(__file__).with_name("dot_columns.cpp")
    subprocess.run([*CXX, *FLAGS, "-fPIC", "-shared", source, "-o", target], check=True)
    library = ctypes.CDLL(target)
    library.stride_of.restype = ctypes.c_int64
    return library


def sums(library, name, x, w_q):
    """x @ w_q.T by that kernel; its rows as the op lays them out, and NaN where it may not read."""
    (M, K), N = x.shape, len(w_q)
    name, int64 = name.encode(), ctypes.c_int64
    line, stride = 64 // x.itemsize, library.stride_of(name, int64(K)) // x.itemsize
    if not stride:
        pytest.skip("not an instruction set of this CPU, or not one this compiler has")
    memory = torch.full((M * stride + line,), torch.nan, dtype=x.dtype)
    first = -memory.data_ptr() % 64 // x.itemsize
    rows = memory[first:][: M * stride].view(M, stride)
    rows[:, :K], rows[:, K : K + -K % line] = x, 0
    acc = torch.full((M * N + GUARD,), torch.nan)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (rows, w_q, acc)]
    library.run(name, pointers[0], int64(M), pointers[1], int64(N), int64(K), pointers[2])
    assert acc[M * N :].isnan().all()
    return acc[: M * N].view(M, N)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(
    "M, N, K",
    [(1, 1, 1), (1, 11, 1100), (1, 4, 0), (3, 7, 63), (7, 19, 129), (14, 9, 1100), (2, 3, 0)],
)
def test_near_the_body(name, M, N, K, library):
    x, w_q = torch.randn(M, K).to(DTYPES[name]), torch.randint(-127, 128, (N, K)).char()
    acc = sums(library, name, x, w_q)
    assert_near_body(acc, x, w_q, torch.ones(N), out_dtype=torch.float32)


@pytest.mark.parametrize("name", DTYPES)
def test_every_int8_is_exact(name, library):
    w_q = torch.arange(-128, 128).char().reshape(4, 64)
    x = torch.eye(64, dtype=DTYPES[name])
    assert torch.equal(sums(library, name, x, w_q), w_q.T.float())
    for row in range(64):  # by itself it may be multiplied in another way
        assert torch.equal(sums(library, name, x[row : row + 1], w_q)[0], w_q[:, row].float())


@pytest.mark.parametrize("name", DTYPES)
def test_what_is_not_finite_stays_so(name, library):
    x, w_q = torch.ones(3, 40, dtype=DTYPES[name]), torch.ones(2, 40, dtype=torch.int8)
    x[0, 39], x[1, 0], w_q[1, 39] = torch.inf, torch.nan, 0
    expected = torch.tensor([[torch.inf, torch.nan], [torch.nan] * 2, [40, 39]])
    torch.testing.assert_close(sums(library, name, x, w_q), expected, equal_nan=True)
    for row in range(3):
        acc = sums(library, name, x[row : row + 1], w_q)[0]
        torch.testing.assert_close(acc, expected[row], equal_nan=True)
