"""The emulator on a kernel that uses what sm_90a has: right as it is, and caught where it errs.

y[m, n] = sum_k x_q[m, k] w_q[n, k]   (times x_scale[m] w_scale[n]), emulator/hopper_pipeline.cu
"""

import ctypes
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import emulator
import pytest
import torch
from emulator import build
from emulator.cuda_ops import address, aligned_rows, poisoned

pytestmark = pytest.mark.skipif(bool(emulator.MISSING), reason=str(emulator.MISSING))

KERNEL = build.HERE / "hopper_pipeline.cu"
TILE = 128  # in all three dimensions
SEEDS = range(1, 6)
MUTANT_SEEDS = range(1, 4)
CLUSTERS = (1, 2)

# (M, N, K), and how many SMs there are
SHAPES = {
    "one tile": (TILE, TILE, TILE, 1),
    "two clusters side by side": (2 * TILE, 2 * TILE, TILE, 4),
    "the ring more than twice around": (TILE, TILE, 10 * TILE, 1),
    "less than a wgmma": (1, 1, 16, 1),
    "tails, and a consumer with no row": (37, 43, 16 * 11, 2),
    "one past a tile, each way": (TILE + 1, TILE + 1, TILE + 16, 4),
    "K is no multiple of 16": (65, 130, 100, 1),
    "several tiles a block, no multiple": (3 * TILE - 5, 2 * TILE + 7, 2 * TILE + 48, 2),
    "fewer tiles than blocks": (100, 2 * TILE, 5 * TILE, 132),
}


class Matmul(ctypes.Structure):
    """HopperMatmul of the kernel's file."""

    _fields_ = [
        ("x_q", ctypes.c_void_p), ("x_q_stride", ctypes.c_int64),
        ("w_q", ctypes.c_void_p), ("w_q_stride", ctypes.c_int64),
        ("x_scale", ctypes.c_void_p), ("w_scale", ctypes.c_void_p),
        ("y", ctypes.c_void_p), ("y_stride", ctypes.c_int64),
        ("M", ctypes.c_int), ("N", ctypes.c_int), ("K", ctypes.c_int),
    ]  # fmt: skip


def load(source, name):
    library = emulator.library([source], name, architectures=["90a"])
    library.hopper_matmul.argtypes = [ctypes.POINTER(Matmul), ctypes.c_int, ctypes.c_void_p]
    library.hopper_matmul.restype = ctypes.c_char_p
    return library.hopper_matmul


@cache
def pipeline():
    return load(KERNEL, "hopper")


def matmul(launcher, x_q, w_q, scales, cluster, sm_count, seed):
    """y, and what lies in its rows past N."""
    (M, K), N = x_q.shape, w_q.shape[0]
    x_q, w_q = aligned_rows(x_q), aligned_rows(w_q)
    y = poisoned(M, N + -N % 4, dtype=torch.float32 if scales else torch.int32)
    x_scale, w_scale = scales or (None, None)
    arguments = Matmul(
        address(x_q), x_q.stride(0), address(w_q), w_q.stride(0), address(x_scale),
        address(w_scale), address(y), y.stride(0) * y.itemsize, M, N, K,
    )  # fmt: skip
    with (
        emulator.device(emulator.H100._replace(sm_count=sm_count), seed=seed),
        emulator.buffers(y, readonly=[x_q, w_q, x_scale, w_scale]),
    ):
        error = launcher(arguments, cluster, None)
        if error is not None:
            raise RuntimeError(emulator.runtime().last_failure() or error.decode())
        emulator.synchronize()
    return y[:, :N], y[:, N:]


def inputs(M, N, K, scaled):
    x_q, w_q = (torch.randint(-127, 128, (rows, K), dtype=torch.int8) for rows in (M, N))
    return x_q, w_q, (torch.rand(M) - 0.5, torch.rand(N)) if scaled else None


def reference(x_q, w_q, scales):
    sums = (x_q.double() @ w_q.double().T).int()  # exact: below 2**53
    return sums.float() * scales[0][:, None] * scales[1] if scales else sums


def check(launcher, shape, cluster, seed, scaled):
    *sizes, sm_count = shape
    x_q, w_q, scales = inputs(*sizes, scaled)
    y, past = matmul(launcher, x_q, w_q, scales, cluster, sm_count, seed)
    torch.testing.assert_close(y, reference(x_q, w_q, scales), rtol=0, atol=0)
    assert torch.equal(past.view(torch.uint8), torch.full_like(past.view(torch.uint8), 0xA5))


@pytest.mark.parametrize("scaled", [False, True], ids=["int32", "float32"])
@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_value(shape, cluster, scaled):
    for seed in SEEDS:
        check(pipeline(), shape, cluster, seed, scaled)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_value_in_many_orders_of_events(cluster):
    for seed in range(100, 120):
        check(pipeline(), (TILE + 9, TILE + 4, 6 * TILE + 16, 2), cluster, seed, scaled=True)


def test_sass():
    """ptxas keeps all in registers, and does not serialise wgmma, which it warns of as C75xx."""
    nvcc = build.find_toolkit() / "bin" / "nvcc"
    with TemporaryDirectory() as folder:
        command = [nvcc, *build.nvcc_flags(), "-arch=sm_90a", "-Xptxas=-v", "-cubin", KERNEL]
        done = subprocess.run([*command, "-o", f"{folder}/cubin"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "C75" not in done.stderr
    spills = re.findall(r"(\d+) bytes spill", done.stderr)
    assert spills and not any(map(int, spills)), done.stderr


class Mutant(NamedTuple):
    old: str
    new: str
    message: str  # a regular expression
    clusters: Sequence[int] = CLUSTERS


HANG = r"hang: nothing can go on[^$]*wait for phase of parity"
OVERWRITES = "may still read|is to write|race: overwrites what"
READS_EARLY = "has yet to write|that nobody has written|race: reads what the store"
NO_MBARRIER = "there is no mbarrier|uses the mbarrier that PTX line .* initialises, with no barrier"
FILL_WAIT = "ptx::mbarrier_wait(shared.empty(turn.stage), turn.parity ^ 1);"
STAGE = "  stage_result<Y>(shared_y, problem, m, n, sums);\n"
STORE_FENCE = "  ptx::fence_proxy_async_shared();\n"
STORE_BARRIER = "  ptx::barrier_sync(barrier, kWarpgroup);\n"
STORE_WAIT = "ptx::bulk_wait_group_read<0>();"

MUTANTS = {
    "consumers wait for the wrong phase": Mutant(
        "shared.full(turn.stage), turn.parity)",
        "shared.full(turn.stage), turn.parity ^ 1)",
        READS_EARLY,
    ),
    "producer waits for the wrong phase": Mutant(FILL_WAIT, FILL_WAIT.replace(" ^ 1", ""), HANG),
    "producer a stage too far ahead": Mutant(
        FILL_WAIT,
        "if (turn.stage > 0) " + FILL_WAIT.replace("turn.stage)", "turn.stage - 1)"),
        OVERWRITES + "|arrives 1 times where the mbarrier awaits 0",
    ),
    "stage released while it is read": Mutant(
        "wgmma_wait_group<1>", "wgmma_wait_group<2>", OVERWRITES
    ),
    "empty awaits too many arrivals": Mutant(
        "kConsumers * kBlocks)", "kConsumers * kBlocks + 1)", HANG
    ),
    "empty awaits too few arrivals": Mutant(
        "kConsumers * kBlocks)", "kConsumers * kBlocks - 1)", OVERWRITES
    ),
    "too many bytes expected": Mutant(
        "(full, kXBytes + kWBytes)", "(full, kXBytes + kWBytes + 16)", HANG
    ),
    "too few bytes expected": Mutant("(full, kXBytes + kWBytes)", "(full, kXBytes)", READS_EARLY),
    "mbarriers used before all know them": Mutant("  synchronise<kBlocks>();\n", "", NO_MBARRIER),
    "no wgmma.fence": Mutant("ptx::wgmma_fence();", "", "was used since the last wgmma.fence"),
    "no wgmma.commit_group": Mutant("ptx::wgmma_commit_group();", "", "may still read"),
    "no wgmma.wait_group before sums are read": Mutant(
        "ptx::wgmma_wait_group<0>();", "", "has in hand until wgmma.wait_group"
    ),
    "swizzle of the map too narrow": Mutant(
        "SWIZZLE_128B", "SWIZZLE_64B", "inner dimension is wider than the swizzle"
    ),
    "swizzle of the map not that of the descriptor": Mutant(
        "SWIZZLE_128B", "SWIZZLE_NONE", "Tensor-likes are not equal"
    ),
    "no proxy fence before the store": Mutant(
        STORE_FENCE, "", "reads asynchronously .* with no fence.proxy.async"
    ),
    "a proxy fence before what it is for": Mutant(
        STAGE + STORE_FENCE,
        STORE_FENCE + STAGE,
        "reads asynchronously .* with no fence.proxy.async",
    ),
    "a proxy fence of one lane of each warp": Mutant(
        STORE_FENCE,
        "  if (threadIdx.x % 32 == 0) ptx::fence_proxy_async_shared();\n",
        "reads asynchronously .* with no fence.proxy.async",
    ),
    "no barrier before the store": Mutant(
        STORE_FENCE + STORE_BARRIER, STORE_FENCE, "race: reads what the store"
    ),
    "no wait for the store before its buffer is used again": Mutant(
        f"if (is_first) {STORE_WAIT}", "", "may still read"
    ),
    "no wait for the store before the end": Mutant(
        f"if (threadIdx.x % kWarpgroup == 0) {STORE_WAIT}",
        "",
        "exits, and has not waited for the bulk copy",
    ),
    "w for one block only": Mutant("(1 << kBlocks) - 1;", "1;", HANG, [2]),
    "no barrier of the cluster before the first copy": Mutant(
        "    ptx::cluster_sync();\n  else", "    __syncthreads();\n  else", NO_MBARRIER, [2]
    ),
    "no barrier of the cluster at the end": Mutant(
        "ptx::cluster_sync();  // until",
        "// until",
        "block, which has not synchronised with another block's access to its shared memory",
        [2],
    ),
}


def build_mutant(name):
    """In the place where the kernel looks for its headers."""
    mutant = MUTANTS[name]
    text = KERNEL.read_text()
    assert text.count(mutant.old) == 1, name
    with TemporaryDirectory() as folder:
        Path(folder, "csrc").symlink_to(build.CSRC)
        copy = Path(folder, KERNEL.relative_to(build.ROOT))
        copy.parent.mkdir(parents=True)
        copy.write_text(text.replace(mutant.old, mutant.new))
        return load(copy, "hopper_mutant")


@cache
def mutants():
    """Launchers by name, all built at once: each takes nvcc a second or two."""
    emulator.runtime()
    return dict(zip(MUTANTS, build.in_parallel(build_mutant, MUTANTS), strict=True))


@pytest.mark.parametrize(
    ("name", "cluster"), [(name, cluster) for name, m in MUTANTS.items() for cluster in m.clusters]
)
def test_mutant_is_caught(name, cluster):
    """With every seed; the message with one: what an error leads to may show before it does."""
    shape = (2 * TILE * cluster, TILE, 6 * TILE, 1)  # two tiles, the ring three times around
    words = []
    for seed in MUTANT_SEEDS:
        with pytest.raises((RuntimeError, AssertionError)) as caught:
            check(mutants()[name], shape, cluster, seed, scaled=True)
        words.append(str(caught.value))
    assert any(re.search(MUTANTS[name].message, text) for text in words), words
