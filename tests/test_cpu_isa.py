"""CPUs of other kinds, as far as ONEDNN_MAX_CPU_ISA makes them of this one: the same bits."""

import os
import platform
import subprocess
import sys

import pytest

import green_kernels as gk

PROGRAM = """
import torch
from green_kernels import ops
from green_kernels.build import build_info

torch.manual_seed(0)
for M, N, K in [(1, 40, 70), (300, 64, 100), (70, 130, 512), (20, 16, 133144)]:
    x, w_q = torch.randn(M, K), torch.randint(-127, 128, (N, K), dtype=torch.int8)
    x, w_q = x.abs(), w_q.abs()  # of one sign, so that sums are large and odd ones are many
    x[0], w_q[0] = 1, 127  # the largest sums, where 16 bits would saturate
    args = x, w_q, torch.rand(N), torch.randn(N)
    expected = ops.int8_linear.reference(*args)
    assert torch.equal(ops.int8_linear(*args), expected)
    assert torch.equal(ops.int8_linear(*args, w_packed=ops.pack_weight(w_q)), expected)
print(build_info()["onednn_int8"])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86 instruction sets")
@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI", "DEFAULT"])
def test_same_bits(isa, tmp_path):
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if isa in ("AVX2", "AVX512_CORE"):  # without VNNI, oneDNN saturates, and our own loop must run
        assert done.stdout.strip() == "not exact"
    elif isa != "DEFAULT" and "avx512vnni" in gk.build_info()["cpu_features"]:
        assert done.stdout.strip() == "unsigned"
