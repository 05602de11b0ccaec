"""Mutants of int8_matmul's kernels for sm_90a: each has one mistake, and the emulator must find it.

They are made of kernels of one small tile each, with so few stages that the ring turns twice.
"""

import emulator
import pytest
import torch
from emulator.mutants import VALUES, Mutant, Subject, check_is_caught, check_is_right

from green_kernels._C import plans
from green_kernels.ops import int8_linear, int8_matmul

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

HANG = r"hang: nothing can go on[\s\S]*wait for phase of parity"
OVERWRITES = "may still read|is to write|race: overwrites what"
READS_EARLY = "has yet to write|that nobody has written|race: reads what the store"
NO_MBARRIER = "there is no mbarrier|uses the mbarrier that PTX line .* initialises, with no barrier"
UNFENCED = "reads asynchronously .* with no fence.proxy.async"

WGMMA_TILES = """{
    {256, 128, 4, 2}, {256, 128, 4, 1}, {128, 256, 4, 2}, {128, 256, 4, 1},
    {128, 192, 4, 1}, {128, 128, 6, 2}, {128, 128, 6, 1}, {128, 64, 8, 1},
};"""
STAGES = 3
TILE_M, TILE_N, CLUSTER = 128, 64, 2


def arguments(M, N, K):
    x_q = torch.randint(-127, 128, (M, K), dtype=torch.int8)
    w_q = torch.randint(-127, 128, (N, K), dtype=torch.int8)
    return x_q, torch.rand(M), w_q, torch.rand(N), torch.randn(N), torch.randn(M, N)


def linear_arguments(M, N, K):
    _, _, w_q, w_scale, bias, residual = arguments(M, N, K)
    return torch.randn(M, K), w_q, w_scale, bias, "none", residual


def wgmma_calls():
    """Two tiles of a cluster, whose ring turns in each: y by TMA, by lanes, after the quantizer."""
    for N in (TILE_N + 4, TILE_N + 3):
        yield int8_matmul, arguments(TILE_M + 70, N, (2 * STAGES - 1) * 128 + 16)
    yield int8_linear, linear_arguments(20, 40, 144)


WGMMA = Subject(
    "int8_matmul_wgmma_sm90a.cu",
    "90a",
    emulator.H100,
    wgmma_calls,
    {"int8_matmul_wgmma.h": {WGMMA_TILES: f"{{{{{TILE_M}, {TILE_N}, {STAGES}, {CLUSTER}}}}};"}},
)


def wgmma(old, new, by, file="int8_matmul_wgmma_sm90a.cu"):
    return Mutant(WGMMA, file, {old: new}, by, plans.Plan(plans.Kernel.wgmma, 0, 1))


MUTANTS = {
    "a stage released while it is read": wgmma(
        "wgmma_wait_group<1>", "wgmma_wait_group<2>", OVERWRITES
    ),
    "w for one block only": wgmma("(1 << tile.cluster) - 1)", "1)", HANG),
    "too few bytes expected": wgmma(
        "(full, stage_bytes(tile))", "(full, x_bytes(tile))", f"{READS_EARLY}|{HANG}"
    ),
    "no proxy fence before the store": wgmma("  ptx::fence_proxy_async_shared();\n", "", UNFENCED),
    "no wgmma.fence": wgmma("    ptx::wgmma_fence();\n", "", "was used since the last wgmma.fence"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name):
    check_is_caught(MUTANTS[name])


def test_there_is_no_false_alarm():
    check_is_right(WGMMA, plans.Plan(plans.Kernel.wgmma, 0, 1))
