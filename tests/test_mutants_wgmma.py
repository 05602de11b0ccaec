"""Mutants of int8_matmul's kernel for many rows on sm_90a: each has one mistake, which the emulator
must find. They have one small tile, with so few stages that the ring turns.
"""

import emulator
import pytest
from emulator.mutants import (
    GONE,
    HANG,
    NO_MBARRIER,
    OUTSIDE,
    OVERWRITES,
    READS_EARLY,
    TOO_MANY,
    UNFENCED,
    UNORDERED,
    VALUES,
    Mutant,
    Subject,
    Suite,
    linear_call,
    matmul_call,
    tiles,
)

from green_kernels._C import plans

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))


def calls():
    """Two tiles of a cluster, five steps of K: y by TMA, by lanes, and after the quantizer."""
    yield matmul_call(198, 132, 528)
    yield matmul_call(198, 131, 528)
    yield linear_call(20, 40, 144)


WGMMA = Subject(
    "int8_matmul_wgmma_sm90a.cu",
    "90a",
    emulator.H100,
    calls,
    plans.Plan(plans.Kernel.wgmma, 0, 1),
    {"int8_matmul_wgmma.h": tiles("kWgmmaTiles", "{{128, 128, 3, 2}}")},
)


def wgmma(old, new, by, file=WGMMA.source, **more):
    return Mutant(WGMMA, file, {old: new} | more, by)


STORE_WAIT = "if (lane == 0) ptx::bulk_wait_group_read<0>();"
STORE_FENCE = "  ptx::fence_proxy_async_shared();\n  __syncwarp();\n"
WAIT = "ptx::wait_for_kernel_before();"
EACH_TILE = "for_tiles<kTile>(args, block.rank, [&](Place corner) {"

MUTANTS = {
    # The ring.
    "consumers do not wait for a stage": wgmma(
        "    block.ring().wait_until_full(turn);\n", "", f"{READS_EARLY}|{HANG}"
    ),
    "consumers wait for the wrong phase": wgmma(
        "full(turn.stage), turn.parity)",
        "full(turn.stage), turn.parity ^ 1)",
        f"{READS_EARLY}|{HANG}",
        "ring.cuh",
    ),
    "the producer waits for the wrong phase": wgmma(
        "empty(turn.stage), turn.parity ^ 1)",
        "empty(turn.stage), turn.parity)",
        f"{HANG}|{OVERWRITES}|{TOO_MANY}",
        "ring.cuh",
    ),
    "the producer does not wait": wgmma(
        "        block.ring().wait_until_empty(turn);\n", "", f"{OVERWRITES}|{TOO_MANY}"
    ),
    "the producer begins a stage too many": wgmma(
        "ahead = min(steps, tile.stages)",
        "ahead = min(steps, tile.stages + 1)",
        f"{OVERWRITES}|{TOO_MANY}",
    ),
    "a stage is released while it is read": wgmma(
        "wgmma_wait_group<1>", "wgmma_wait_group<2>", f"{OVERWRITES}|{READS_EARLY}"
    ),
    "the last stage of a tile is never released": wgmma(
        "  if (steps > 0) release(block, before);\n", "", HANG
    ),
    "one consumer's release is enough": wgmma(
        "initialise(kConsumers * tile.cluster)",
        "initialise(tile.cluster)",
        f"{OVERWRITES}|{READS_EARLY}|{TOO_MANY}|{HANG}",
    ),
    "too many bytes expected": wgmma(
        "(full, stage_bytes(tile))", "(full, stage_bytes(tile) + 16)", HANG
    ),
    "w's bytes are not expected": wgmma(
        "(full, stage_bytes(tile))", "(full, x_bytes(tile))", f"{READS_EARLY}|{HANG}"
    ),
    "no wgmma.fence": wgmma("    ptx::wgmma_fence();\n", "", "was used since the last wgmma.fence"),
    "no group to wait for": wgmma("    ptx::wgmma_commit_group();\n", "", "may still read"),
    "sums are read while they are computed": wgmma(
        "  ptx::wgmma_wait_group<0>();\n", "", "has in hand until wgmma.wait_group"
    ),
    "mbarriers that asynchronous copies may not know": wgmma(
        "    ptx::fence_mbarrier_init();\n", "", "with no fence.mbarrier_init", "ring.cuh"
    ),
    # The cluster.
    "w goes to one block only": wgmma("(1 << tile.cluster) - 1)", "1)", HANG),
    "both blocks have the same half of w copied": wgmma(
        "w_map, k, n + block.rank * part,", "w_map, k, n,", VALUES
    ),
    "consumers release to their own block only": wgmma(
        "if (thread < blocks)",
        "if (thread == block.rank)",
        f"{OVERWRITES}|{TOO_MANY}",
        **{"initialise(kConsumers * tile.cluster)": "initialise(kConsumers)"},
    ),
    "mbarriers are used before the other block has made them": wgmma(
        "    ptx::cluster_sync();\n  else", "    __syncthreads();\n  else", NO_MBARRIER
    ),
    "a block ends while the other needs it": wgmma(
        "    ptx::cluster_sync();  // until", "    // until", GONE
    ),
    # Swizzles, descriptors, maps.
    "x is not swizzled": wgmma(
        "encode_stages(args.x_q, args.M, args.K, args.x_q_stride, tile.m, maps.x)",
        "encode({CU_TENSOR_MAP_DATA_TYPE_UINT8, args.x_q, args.M, args.K, args.x_q_stride, tile.m,"
        " kStageK, CU_TENSOR_MAP_SWIZZLE_NONE}, maps.x)",
        VALUES,
    ),
    "w is not swizzled": wgmma(
        "encode_stages(args.w_q, args.N, args.K, args.w_q_stride, tile.n / tile.cluster, maps.w)",
        "encode({CU_TENSOR_MAP_DATA_TYPE_UINT8, args.w_q, args.N, args.K, args.w_q_stride,"
        " tile.n / tile.cluster, kStageK, CU_TENSOR_MAP_SWIZZLE_NONE}, maps.w)",
        VALUES,
    ),
    "the descriptor's stride is half of what it is": wgmma(
        "uint64_t(1024 >> 4)", "uint64_t(512 >> 4)", VALUES, "ptx_sm90a.cuh"
    ),
    "the wrong step in k": wgmma(
        "ptx::swizzled_128b_descriptor(w + k)", "ptx::swizzled_128b_descriptor(w + k / 2)", VALUES
    ),
    # From sums to y.
    "no proxy fence before the store": wgmma(STORE_FENCE, "  __syncwarp();\n", UNFENCED),
    "no barrier of the warp before the store": wgmma(
        STORE_FENCE, "  ptx::fence_proxy_async_shared();\n", f"{READS_EARLY}|{UNFENCED}"
    ),
    "a piece is staged while the one before it is stored": wgmma(
        f"    {STORE_WAIT}  // for the piece before\n", "", OVERWRITES
    ),
    "lanes do not wait for the one that waits for the store": wgmma(
        f"    {STORE_WAIT}  // for the piece before\n    __syncwarp();\n",
        f"    {STORE_WAIT}\n",
        OVERWRITES,
    ),
    "packed values over what is still to be read": wgmma(
        "      __syncwarp();\n      pack(", "      pack(", f"{OVERWRITES}|{READS_EARLY}"
    ),
    "no wait for the last store": wgmma(
        f"  }});\n  {STORE_WAIT}", "  });\n", "exits, and has not waited for the bulk copy"
    ),
    "the bias of the wrong columns": wgmma(
        "four(args, n + finished(lane, 0).column",
        "four(args, corner.column + finished(lane, 0).column",
        VALUES,
    ),
    "rows past M are written": wgmma(
        "const bool exists = row < args.M && four.count > 0;",
        "const bool exists = four.count > 0;",
        OUTSIDE,
    ),
    "the scale of the wrong row": wgmma("x_scale[reg / 2 % 2])", "x_scale[reg % 2])", VALUES),
    # The launch before.
    "x is read before the kernel before has ended": wgmma(
        f"  {WAIT}\n  {EACH_TILE}\n    for",
        f"  {EACH_TILE}\n    for",
        UNORDERED,
    ),
    "x_scale is read before the kernel before has ended": wgmma(
        f"  {WAIT}  // x_scale is of it, as x is\n", "", UNORDERED
    ),
}


SUITE = Suite(MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name):
    SUITE.check_is_caught(name)


def test_there_is_no_false_alarm():
    SUITE.check_is_right(WGMMA)
