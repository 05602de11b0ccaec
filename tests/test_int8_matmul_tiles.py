"""The table of Triton's tiles: what it holds, what is refused; and the kernel that stays."""

import json
from dataclasses import asdict, replace

import emulator
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from green_kernels.ops import int8_linear, int8_matmul

tiles = pytest.importorskip("green_kernels.triton_kernels.int8_matmul_tiles")
from green_kernels.triton_kernels import int8_matmul as launcher  # noqa: E402

ROWS = tiles.read(tiles.COMMITTED)
SHARED_KB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # of a block, by CUDA's manual
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
KINDS = [(arch, heavy) for arch in SHARED_KB for heavy in (False, True)]


@pytest.fixture(autouse=True)
def read_anew(monkeypatch):
    monkeypatch.delenv("GREEN_KERNELS_TILES", raising=False)
    tiles.forget()
    yield
    tiles.forget()


def test_stages_fit_shared_memory():
    """(What the compiler takes besides is in test_static_triton.py.)"""
    for row in ROWS:
        stages = row.num_stages * (row.BLOCK_M + row.BLOCK_N) * row.BLOCK_K
        assert stages < SHARED_KB[row.arch] * 1024, row


@pytest.mark.parametrize("arch, heavy", KINDS)
def test_buckets_cover_all_M_without_a_gap(arch, heavy):
    """By rows for every N and K, with no tile to spare."""
    first = 1
    for row in sorted(ROWS, key=lambda row: row.first_M):
        any_product = row.least_tiles == 1 and row.N is row.K is None
        if row.arch == arch and any_product and row.heavy in (None, heavy):
            assert row.first_M == first
            first = row.last_M and row.last_M + 1
    assert first is None


@given(
    M=st.integers(1, 2**24), N=st.integers(1, 2**18), K=st.integers(0, 133144),
    arch=st.sampled_from([80, 86, 87, 89, 90, 100, 103, 120, 121]), precise=st.booleans(),
)  # fmt: skip
def test_every_product_has_a_launch(M, N, K, arch, precise):
    tile, options, resident = launcher.launch(M, N, K, arch, precise)
    assert tile["BLOCK_M"] >= 16 and options["num_warps"] in (4, 8)
    assert (resident > 0) == (arch >= 90 and K % 16 == 0 < K and M > 16)
    assert (tile, options, 0) == launcher.launch(M, N, K, arch, precise, aligned=False)


def test_a_newer_gpu_has_the_rows_of_the_one_before_it():
    for newer, known in {87: 86, 103: 100, 110: 100, 121: 120}.items():
        assert launcher.launch(512, 512, 512, newer) == launcher.launch(512, 512, 512, known)


def test_rows_of_a_named_table_come_first(tmp_path, monkeypatch):
    mine = replace(ROWS[0], arch=80, first_M=9, last_M=12, N=64, K=96, num_stages=2, origin="me")
    tiles.write(tmp_path / "mine.json", [mine])
    monkeypatch.setenv("GREEN_KERNELS_TILES", str(tmp_path / "mine.json"))
    tiles.forget()
    assert tiles.choose(9, 64, 96, 80, heavy=False) == mine
    for M, N, K, arch in ((8, 64, 96, 80), (9, 65, 96, 80), (9, 64, 95, 80), (9, 64, 96, 86)):
        assert tiles.choose(M, N, K, arch, heavy=False) in ROWS


@pytest.mark.parametrize("text", [None, "{}"], ids=["no file", "no table"])
def test_a_table_that_the_environment_names_in_vain_is_named(text, tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("GREEN_KERNELS_TILES", str(path))
    tiles.forget()
    with pytest.raises(ValueError, match=f"^GREEN_KERNELS_TILES: .*{path}"):
        tiles.choose(9, 64, 96, 80, heavy=False)


def test_what_is_written_is_read_again(tmp_path):
    tiles.write(tmp_path / "all.json", ROWS)
    assert tiles.read(tmp_path / "all.json") == ROWS


MALFORMED = {
    "arch": (70, "arch must be one of 80, 86, 89, 90, 100, 120, got 70"),
    "first_M": (0, "first_M must be an integer from 1 to 2147483647, got 0"),
    "last_M": ("16", "last_M must be an integer from 1 to 2147483647 or null, got '16'"),
    "N": (True, "N must be an integer from 1 to 2147483647 or null, got True"),
    "heavy": (1, "heavy must be true or false or null, got 1"),
    "least_tiles": (None, "least_tiles must be an integer from 1 to 2147483647, got None"),
    "BLOCK_M": (8, "BLOCK_M must be a power of 2 from 16 to 256, got 8"),
    "BLOCK_N": (96, "BLOCK_N must be a power of 2 from 16 to 256, got 96"),
    "BLOCK_K": (16, "BLOCK_K must be a power of 2 from 32 to 512, got 16"),
    "num_warps": (3, "num_warps must be a power of 2 from 1 to 16, got 3"),
    "num_stages": (4.0, "num_stages must be an integer from 1 to 8, got 4.0"),
    "persistent": (True, "persistent needs arch 90 or later, got 80"),
    "origin": ("", "origin must be a text that says where the tile came from, got ''"),
    "stages": (1, "stages is none of arch, first_M, "),
}


def table_with(tmp_path, **change):
    path = tmp_path / "table.json"
    rows = [asdict(ROWS[0]), {k: v for k, v in (asdict(ROWS[0]) | change).items() if v != "-"}]
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_row_is_named(name, tmp_path):
    value, message = MALFORMED[name]
    path = table_with(tmp_path, **{name: value})
    with pytest.raises(ValueError) as refused:
        tiles.read(path)
    assert str(refused.value).startswith(f"{path}, row 1: {message}")


WRONG_TOGETHER = {
    "last before first": ({"first_M": 17}, "last_M must be at least first_M, got 16"),
    "too large": ({"arch": 86, "num_stages": 8}, "num_stages must fit 101376 bytes, got a tile"),
    "missing": ({"GROUP_M": "-"}, "GROUP_M is missing"),
    "not fenced": ({"arch": 90, "BLOCK_M": 64}, "persistent must be true for BLOCK_M from 64"),
}


@pytest.mark.parametrize("change, message", WRONG_TOGETHER.values(), ids=WRONG_TOGETHER)
def test_a_row_that_cannot_be_is_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=f"row 1: {message}"):
        tiles.read(table_with(tmp_path, **change))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", " is not JSON: Expecting"),
        ("{}", " must be a JSON list, got dict"),
        ("[1]", ", row 0 must be an object, got 1"),
    ],
)
def test_what_is_no_table_is_refused(text, message, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}{message}"):
        tiles.read(path)


SMALL = replace(ROWS[0], arch=90, BLOCK_M=64, BLOCK_K=128, num_stages=3, persistent=True)
# The interpreter, and compiled for those of the emulated GPUs that have tensor descriptors.
STAYS = ["triton", "emulated_triton_sm_90"]


def arguments(M, N, K, dtype=torch.float32, device="cpu"):
    x_q = torch.randint(-127, 128, (M, K), dtype=torch.int8, device=device)
    w_q = torch.randint(-127, 128, (N, K), dtype=torch.int8, device=device)
    scales = (torch.rand(n, device=device) / 1000 for n in (M, N))
    bias = torch.randn(N, device=device).to(dtype)
    return x_q, next(scales), w_q, next(scales), bias, torch.randn(M, N, device=device).to(dtype)


@pytest.fixture
def stays(device, monkeypatch):
    """Every product by the persistent kernel, in few programs of several tiles each."""
    seen = []
    launch = launcher.launch

    def noted(*args):
        seen.append(launch(*args))
        return seen[-1]

    monkeypatch.setattr(launcher, "launch", noted)
    monkeypatch.setattr(launcher, "gpu_of", lambda device: (90, 1))
    if device == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("tensor descriptors need compute capability 9.0")
    with tiles.use(SMALL):
        yield lambda: [resident > 0 for _, _, resident in seen]


PRODUCTS = {"whole tiles": (192, 128, 256), "edges": (150, 144, 272), "one step": (70, 65, 16)}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize("backend", STAYS, indirect=True)
def test_the_kernel_that_stays(backend, product, stays, device, assert_same_bits):
    args = arguments(*product, device=device)
    expected = int8_matmul.reference(*args, "relu")
    for _ in range(5 if "emulated" in backend else 1):  # under that many schedules
        assert_same_bits(int8_matmul(*args, "relu"), expected)
    assert all(stays())


@pytest.mark.parametrize("backend", STAYS, indirect=True)
def test_a_large_tile_is_finished_in_halves(backend, stays, device, assert_same_bits):
    args = arguments(140, 270, 144, torch.bfloat16, device)
    with tiles.use(replace(SMALL, BLOCK_M=128, BLOCK_N=256, num_warps=8)):
        y = int8_matmul(*args, "relu", torch.bfloat16)
    assert_same_bits(y, int8_matmul.reference(*args, "relu", torch.bfloat16))
    assert stays() == [True]


EPILOGUES = {  # each act, dtype and pair of optional arguments that compiles to another kernel
    "triton": [(a, d, w) for a in ("none", "silu") for d in FLOATS for w in (False, True)],
    "emulated_triton_sm_90": [("silu", torch.bfloat16, True)],  # a compilation each takes time
}


@pytest.mark.parametrize("backend", STAYS, indirect=True)
def test_its_epilogue_is_that_of_the_other_kernel(backend, stays, device, assert_same_bits):
    for act, dtype, whole in EPILOGUES[backend]:
        *operands, bias, residual = arguments(70, 48, 80, dtype, device)
        args = *operands, *((bias, residual) if whole else (None, None)), act, dtype
        y = int8_matmul(*args)
        with tiles.use(replace(SMALL, persistent=False)):
            assert_same_bits(y, int8_matmul(*args))
    assert stays() == [True, False] * len(EPILOGUES[backend])


@pytest.mark.parametrize("backend", STAYS, indirect=True)
def test_rows_that_no_descriptor_takes_are_loaded_by_pointers(
    backend, stays, device, assert_same_bits
):
    odd = arguments(70, 40, 77, device=device)
    x_q, *rest = arguments(70, 40, 80, device=device)
    moved = torch.empty(70 * 80 + 1, dtype=torch.int8, device=device)[1:].view(70, 80).copy_(x_q)
    for args in (odd, (moved, *rest)):
        assert_same_bits(int8_matmul(*args), int8_matmul.reference(*args))
    assert stays() == [False, False]


@pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))
def test_the_emulated_kernel_that_stays_for_sm_120(assert_same_bits):
    from emulator import triton_ops

    args = arguments(150, 144, 272)
    with tiles.use(replace(SMALL, arch=120)):
        actual = triton_ops.kernels(120)["int8_matmul"](*args)
    assert_same_bits(actual, int8_matmul.reference(*args))


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_int8_linear_multiplies_by_it_too(backend, stays, device, assert_same_bits):
    x = torch.randn(70, 80, device=device)
    _, _, *rest, _ = arguments(70, 48, 80, device=device)
    assert_same_bits(int8_linear(x, *rest), int8_linear.reference(x, *rest))
    assert stays() == [True]
