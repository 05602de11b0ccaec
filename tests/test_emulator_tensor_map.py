"""Tensor maps and bulk copies on the emulator: small kernels of PTX, against models in NumPy.

loaded[i] = tensor[start + i * step] where that is in bounds, and else the fill; a store goes back
"""

import re
import shutil
import subprocess
from functools import reduce

import emulator
import numpy as np
import pytest
import torch
from emulator.tensor_maps import encode

pytestmark = pytest.mark.skipif(bool(emulator.MISSING), reason=str(emulator.MISSING))

SEEDS = range(1, 6)
PTXAS = shutil.which("ptxas") or shutil.which("ptxas", path="/usr/local/cuda/bin")

# The driver's enums.
UINT32, INT32, FLOAT16, FLOAT32, FLOAT64, BFLOAT16 = 2, 3, 6, 7, 8, 9
FLOATS = (FLOAT16, FLOAT32, FLOAT64, BFLOAT16)
BYTES = (1, 2, 4, 4, 8, 8, 2, 4, 8, 2)  # of an element, by data type
NO_SWIZZLE, SWIZZLE_32B, SWIZZLE_64B, SWIZZLE_128B = SWIZZLES = range(4)

# "Swizzling Modes": which chunk of 16 bytes lies where in each row of 128 bytes. A mode repeats the
# first 1, 2, 4 or 8 of the rows.
ROWS = "01234567 10325476 23016745 32107654 45670123 54761032 67452301 76543210".split()
CHUNK, ROW = 16, 128


# cuTensorMapEncodeTiled

RIGHT = {
    "data_type": FLOAT32, "address": 1 << 20, "sizes": (64, 32, 16), "strides": (256, 8192),
    "box": (16, 8, 4), "steps": (1, 1, 1),
}  # fmt: skip

BROKEN = [
    ("the tensor map is not aligned to 64 bytes", {"misaligned": 32}),
    ("tensor maps need compute capability 9.0", {"device": emulator.A100}),
    ("the data type is none of CUtensorMapDataType", {"data_type": 16}),
    ("the interleave is none of CUtensorMapInterleave", {"interleave": 3}),
    ("the swizzle is none of CUtensorMapSwizzle", {"swizzle": 7}),
    ("the L2 promotion is none of CUtensorMapL2promotion", {"l2_promotion": 4}),
    ("the fill is none of CUtensorMapFloatOOBfill", {"oob_fill": 2}),
    ("out of bounds NaN needs a floating-point data type", {"data_type": INT32, "oob_fill": 1}),
    ("the rank is not from 1 to 5", {"rank": 0}),
    ("the rank is not from 1 to 5", {
        "sizes": (16,) * 6, "strides": (64,) * 5, "box": (16,) * 6, "steps": (1,) * 6,
    }),
    ("the global address is not aligned to 16 bytes", {"address": (1 << 20) + 8}),
    ("the size of dimension 1 is not from 1 to 2^32", {"sizes": (64, 0, 16)}),
    ("the size of dimension 0 is not from 1 to 2^32", {"sizes": ((1 << 32) + 1, 32, 16)}),
    ("the stride of dimension 1 is not a multiple of 16 bytes", {"strides": (264, 8448)}),
    ("the stride of dimension 2 is not below 2^40 bytes", {"strides": (256, 1 << 40)}),
    ("the stride of dimension 1 does not cover the dimension before it", {"strides": (240, 8192)}),
    ("the stride of dimension 2 does not cover the dimension before it", {"strides": (256, 4096)}),
    ("the box of dimension 2 is not from 1 to 256", {"box": (16, 8, 0)}),
    ("the box of dimension 1 is not from 1 to 256", {"box": (16, 257, 4)}),
    ("the element stride of dimension 1 is not from 1 to 8", {"steps": (1, 0, 1)}),
    ("the element stride of dimension 2 is not from 1 to 8", {"steps": (1, 1, 9)}),
    ("the box's inner dimension is not a multiple of 16 bytes", {"box": (3, 8, 4)}),
    ("the box's inner dimension is wider than the swizzle", {"swizzle": SWIZZLE_32B}),
]  # fmt: skip

UNSUPPORTED = {
    "this data type": [{"data_type": i} for i in range(10, 16)],
    "an interleaved layout": [{"interleave": i} for i in (1, 2)],
    "this swizzle mode": [{"swizzle": i} for i in (4, 5, 6)],
    "an inner dimension narrower than the swizzle": [{"swizzle": SWIZZLE_128B}],
}

LIMITS = {
    "size": {"sizes": (64, 32, 1 << 32)},
    "stride": {"strides": (256, (1 << 40) - 16)},
    "box": {"box": (16, 256, 256)},
    "element stride": {"steps": (1, 8, 8)},
    "rank 1": {"sizes": (64,), "strides": (), "box": (16,), "steps": (1,)},
    "rank 5": {
        "sizes": (64, 2, 2, 2, 2), "strides": (256, 512, 1024, 2048), "box": (16, 1, 1, 1, 1),
        "steps": (1, 1, 1, 1, 1),
    },
    "swizzle": {"swizzle": SWIZZLE_64B},
    "NaN": {"oob_fill": 1},
}  # fmt: skip


@pytest.mark.parametrize(("message", "change"), BROKEN, ids=[message for message, _ in BROKEN])
def test_a_broken_rule_is_named(message, change):
    with pytest.raises(ValueError, match=f"^cuTensorMapEncodeTiled: {re.escape(message)}$"):
        encode(**RIGHT | change)


@pytest.mark.parametrize(("what", "changes"), UNSUPPORTED.items(), ids=UNSUPPORTED)
def test_what_the_emulator_lacks_is_told(what, changes):
    for change in changes:
        with pytest.raises(ValueError, match=f"{what} is not supported by the emulator$"):
            encode(**RIGHT | change)


@pytest.mark.parametrize("change", LIMITS.values(), ids=LIMITS)
def test_the_limits_are_within(change):
    assert len(encode(**RIGHT | change)) == 128


# Kernels. One thread of a block does everything, so that no barrier is needed but the mbarrier.

INITIALISE = """
mbarrier.init.shared::cta.b64 [full], 1;
fence.mbarrier_init.release.cluster;
"""
WAIT = """
waiting:
mbarrier.try_wait.parity.shared::cta.b64 over, [full], 0;
@!over bra waiting;
"""
COMMIT_AND_WAIT = """
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;
"""
CLUSTER_BARRIER = """
barrier.cluster.arrive.aligned;
barrier.cluster.wait.aligned;
"""
LOAD = "shared::cluster.global.tile.mbarrier::complete_tx::bytes"
STORE = "global.shared::cta.tile.bulk_group"


def kernel(body, rank=0):
    """A module with the entry `run`, for boxes of `rank` dimensions or, with none, plain pieces."""
    parameters = [".param .u64 global", ".param .u64 other"]
    parameters += [".param .align 64 .b8 map[128]"] * (rank > 0)
    parameters += [f".param .s32 c{i}_of" for i in range(rank)]
    get = "mov.b64 map_at, map;\ncvta.param.u64 map_at, map_at;\n" if rank else ""
    get += "".join(f"ld.param.s32 c{i}, [c{i}_of];\n" for i in range(rank))
    return f"""
.version 8.6
.target sm_90a
.address_size 64
.visible .entry run({", ".join(parameters)})
{{
.shared .align 1024 .b8 box[12288];
.shared .align 8 .b64 full;
.reg .pred again, over;
.reg .b16 mask;
.reg .b32 at, end, rank, to, to_full, c0, c1, c2, c3, c4, v0, v1, v2, v3;
.reg .b64 map_at, global_at, other_at;
ld.param.u64 global_at, [global];
ld.param.u64 other_at, [other];
{get}{body}ret;
}}
"""


def copying(load, store, nbytes):
    """16 bytes after the other between `box` and the memory at global_at."""
    return f"""
mov.u32 at, box;
add.u32 end, at, {nbytes};
copying:
{load}
{store}
add.u32 at, at, 16;
add.u64 global_at, global_at, 16;
setp.lt.u32 again, at, end;
@again bra copying;
"""


def copy_in(nbytes):
    load = "ld.global.v4.b32 {v0, v1, v2, v3}, [global_at];"
    store = "st.shared.v4.b32 [at], {v0, v1, v2, v3};"
    return copying(load, store, nbytes) + "fence.proxy.async.shared::cta;\n"


def copy_out(nbytes):
    load = "ld.shared.v4.b32 {v0, v1, v2, v3}, [at];"
    return copying(load, "st.global.v4.b32 [global_at], {v0, v1, v2, v3};", nbytes)


def expect(nbytes):
    return f"mbarrier.arrive.expect_tx.shared::cta.b64 _, [full], {nbytes};\n"


def box_at(rank):
    return f"[map_at, {{{', '.join(f'c{i}' for i in range(rank))}}}]"


def load_kernel(rank, nbytes, to="box"):
    load = f"cp.async.bulk.tensor.{rank}d.{LOAD} [{to}], {box_at(rank)}, [full];"
    return kernel(INITIALISE + expect(nbytes) + load + WAIT + copy_out(nbytes), rank)


def store_kernel(rank, nbytes):
    store = f"cp.async.bulk.tensor.{rank}d.{STORE} {box_at(rank)}, [box];"
    return kernel(copy_in(nbytes) + store + COMMIT_AND_WAIT, rank)


def reduce_kernel(rank, nbytes, operation):
    form = STORE.replace(".tile", f".{operation}.tile")
    reduction = f"cp.reduce.async.bulk.tensor.{rank}d.{form} {box_at(rank)}, [box];"
    return kernel(copy_in(nbytes) + reduction + COMMIT_AND_WAIT, rank)


def multicast_kernel(nbytes, mask=0b11):
    """Each of two blocks loads half of a box's rows for both; each writes what it has."""
    return kernel(
        f"""
        {INITIALISE}{expect(nbytes)}{CLUSTER_BARRIER}
        mov.u32 rank, %cluster_ctarank;
        mov.u32 to, box;
        mad.lo.u32 to, rank, {nbytes // 2}, to;
        ld.param.s32 v0, [other];
        mad.lo.s32 c1, rank, v0, c1;
        mov.b16 mask, {mask};
        cp.async.bulk.tensor.2d.{LOAD}.multicast::cluster [to], {box_at(2)}, [full], mask;
        {WAIT}
        mul.wide.u32 other_at, rank, {nbytes};
        add.u64 global_at, global_at, other_at;
        {copy_out(nbytes)}{CLUSTER_BARRIER}""",
        rank=2,
    )


def plain_load_kernel(nbytes):
    load = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
    load += f" [box], [other_at], {nbytes}, [full];"
    return kernel(INITIALISE + expect(nbytes) + load + WAIT + copy_out(nbytes))


def plain_store_kernel(nbytes):
    store = f"cp.async.bulk.global.shared::cta.bulk_group [other_at], [box], {nbytes};"
    return kernel(copy_in(nbytes) + store + COMMIT_AND_WAIT)


def plain_reduce_kernel(nbytes, operation, kind):
    reduction = f"cp.reduce.async.bulk.global.shared::cta.bulk_group.{operation}.{kind}"
    return kernel(copy_in(nbytes) + f"{reduction} [other_at], [box], {nbytes};{COMMIT_AND_WAIT}")


def swap_kernel(nbytes):
    """Each of two blocks sends what it read to the other, which writes it."""
    copy = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes"
    return kernel(f"""
        {INITIALISE}{expect(nbytes)}{CLUSTER_BARRIER}
        mov.u32 rank, %cluster_ctarank;
        mad.wide.u32 global_at, rank, {nbytes}, global_at;
        {copy_in(nbytes)}
        xor.b32 v0, rank, 1;
        mov.u32 to, box;
        add.u32 to, to, 4096;
        mapa.shared::cluster.u32 to, to, v0;
        mov.u32 to_full, full;
        mapa.shared::cluster.u32 to_full, to_full, v0;
        {copy} [to], [box], {nbytes}, [to_full];
        {WAIT}
        mad.wide.u32 other_at, rank, {nbytes}, other_at;
        cp.async.bulk.global.shared::cta.bulk_group [other_at], [box+4096], {nbytes};
        {COMMIT_AND_WAIT}{CLUSTER_BARRIER}""")


ASSEMBLED = {
    "load": load_kernel(3, 1024),
    "store": store_kernel(5, 1024),
    "reduce": reduce_kernel(1, 64, "add"),
    "multicast": multicast_kernel(1024),
    "plain load": plain_load_kernel(64),
    "plain store": plain_store_kernel(64),
    "plain reduce": plain_reduce_kernel(64, "add", "u32"),
    "swap": swap_kernel(64),
}


@pytest.mark.skipif(PTXAS is None, reason="no ptxas")
@pytest.mark.parametrize("text", ASSEMBLED.values(), ids=ASSEMBLED)
def test_every_kernel_assembles(text, tmp_path):
    (tmp_path / "run.ptx").write_text(text)
    command = [PTXAS, "-arch=sm_90a", tmp_path / "run.ptx", "-o", tmp_path / "cubin"]
    subprocess.run(command, check=True)


def run(text, memory, other, *arguments, readonly=(), blocks=1, seed=1):
    """`memory` and `other` are tensors; or the latter a number, for whatever the kernel takes."""
    is_number = isinstance(other, int)
    given = [
        ("ptr", memory.data_ptr()),
        ("u64", other if is_number else other.data_ptr()),
        *arguments,
    ]
    writable = [memory] if is_number else [memory, other]
    sizes = {"grid": (blocks, 1, 1), "block": (1, 1, 1), "cluster": (blocks, 1, 1)}
    with emulator.buffers(*writable, readonly=readonly):
        emulator.launch(text, "run", **sizes, arguments=given, seed=seed)


# Models.


def swizzled(image, mode):
    """Bytes as they lie in shared memory, from a multiple of 1024 on."""
    padded = np.pad(image, (0, -len(image) % ROW)).reshape(-1, ROW // CHUNK, CHUNK)
    result = np.empty_like(padded)
    for i, row in enumerate(padded):
        for chunk, place in enumerate(ROWS[i % (1 << mode)]):
            result[i, int(place)] = row[chunk]
    return result.reshape(-1)[: len(image)]


class Case:
    """A tensor with random sizes, gaps and contents, and a box somewhere about it."""

    def __init__(self, rng, rank, swizzle=NO_SWIZZLE, data_type=None, least_start=None):
        self.data_type = int(rng.integers(len(BYTES))) if data_type is None else data_type
        self.swizzle, item = swizzle, BYTES[self.data_type]
        inner = CHUNK * (1 << swizzle if swizzle else int(rng.integers(1, 9))) // item
        self.box = [inner, *rng.integers(1, 7 if rank < 4 else 4, rank - 1).tolist()]
        self.steps = [1, *rng.integers(1, 4, rank - 1).tolist()]
        self.sizes = [int(rng.integers(1, 3 * inner)), *rng.integers(1, 13, rank - 1).tolist()]
        strides = [item, -(-self.sizes[0] * item // CHUNK) * CHUNK + CHUNK * int(rng.integers(3))]
        for size in self.sizes[1:]:
            strides.append(strides[-1] * (size + int(rng.integers(2))))
        self.strides = strides[1:rank]
        first = [-b if least_start is None else least_start for b in self.box]
        self.start = [
            int(rng.integers(low, size + 2)) for low, size in zip(first, self.sizes, strict=True)
        ]
        self.storage = torch.from_numpy(rng.integers(0, 256, strides[-1], np.uint8))
        self.tensor = self.view(self.storage)
        self.shape = [-(-b // s) for b, s in zip(self.box, self.steps, strict=True)][::-1]
        self.nbytes = item * int(np.prod(self.shape))

    def view(self, storage):
        """The tensor in such bytes, its outermost dimension first."""
        item = BYTES[self.data_type]
        return np.lib.stride_tricks.as_strided(
            storage.numpy().view(f"u{item}"), self.sizes[::-1], [*self.strides[::-1], item]
        )

    def map(self, **options):
        return encode(
            self.data_type, self.storage.data_ptr(), self.sizes, self.strides, self.box,
            self.steps, swizzle=self.swizzle, **options,
        )  # fmt: skip

    def arguments(self, **options):
        return [self.map(**options), *(("i32", start) for start in self.start)]

    def where(self):
        """Of each dimension, outermost first: the coordinates, and whether they are in bounds."""
        places = zip(self.start, self.box, self.steps, self.sizes, strict=True)
        at = [(start + np.arange(0, length, step), size) for start, length, step, size in places]
        return [(i, (i >= 0) & (i < size)) for i, size in at[::-1]]

    def inside(self):
        return reduce(np.logical_and.outer, [inside for _, inside in self.where()])

    def loaded(self):
        """The box, and zeros where it is out of bounds."""
        clipped = [np.where(inside, i, 0) for i, inside in self.where()]
        return self.tensor[np.ix_(*clipped)] * self.inside()

    def stored(self, box, combine=lambda old, new: new):
        """The storage after a store of `box`."""
        storage = self.storage.clone()
        at = np.ix_(*(i[inside] for i, inside in self.where()))
        new = box[np.ix_(*(inside for _, inside in self.where()))]
        self.view(storage)[at] = combine(self.tensor[at], new)
        return storage

    def draw_box(self, rng):
        return (
            rng.integers(0, 256, self.nbytes, np.uint8).view(self.tensor.dtype).reshape(self.shape)
        )


def image_of(case, box):
    return torch.from_numpy(
        swizzled(np.ascontiguousarray(box).view(np.uint8).reshape(-1), case.swizzle)
    )


@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_load(rank, swizzle):
    for seed in SEEDS:
        case = Case(np.random.default_rng([seed, rank, swizzle]), rank, swizzle)
        out = torch.zeros(case.nbytes, dtype=torch.uint8)
        text = load_kernel(rank, case.nbytes)
        run(text, out, 0, *case.arguments(), readonly=[case.storage], seed=seed)
        assert torch.equal(out, image_of(case, case.loaded()))


@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_store(rank, swizzle):
    for seed in SEEDS:
        rng = np.random.default_rng([seed, rank, swizzle])
        case = Case(rng, rank, swizzle, least_start=0)
        box = case.draw_box(rng)
        expected = case.stored(box)
        text = store_kernel(rank, case.nbytes)
        run(text, image_of(case, box), case.storage, *case.arguments(), seed=seed)
        assert torch.equal(case.storage, expected)


def bits(values, data_type):
    """Whole numbers as bits of a floating-point type."""
    if data_type == BFLOAT16:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(f"f{BYTES[data_type]}").view(f"u{BYTES[data_type]}")


def numbers(bits, data_type):
    """What the bits of a floating-point type stand for."""
    if data_type == BFLOAT16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(f"f{bits.itemsize}")


@pytest.mark.parametrize("data_type", FLOATS)
def test_sums_of_floats(data_type):
    def add(old, new):
        return bits(numbers(old, data_type) + numbers(new, data_type), data_type)

    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        case = Case(rng, 2, data_type=data_type, least_start=0)
        case.tensor[...] = bits(rng.integers(-60, 60, case.tensor.shape), data_type)  # exact
        box = bits(rng.integers(-60, 60, case.shape), data_type)
        expected = case.stored(box, add)
        text = reduce_kernel(2, case.nbytes, "add")
        run(text, image_of(case, box), case.storage, *case.arguments(), seed=seed)
        assert torch.equal(case.storage, expected)


REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
}


@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize("operation", REDUCTIONS)
def test_reductions_of_integers(operation, swizzle):
    for seed in SEEDS:
        rng = np.random.default_rng([seed, swizzle])
        rank = int(rng.integers(1, 4))
        case = Case(rng, rank, swizzle, UINT32, least_start=0)
        box = case.draw_box(rng)
        expected = case.stored(box, REDUCTIONS[operation])
        text = reduce_kernel(rank, case.nbytes, operation)
        run(text, image_of(case, box), case.storage, *case.arguments(), seed=seed)
        assert torch.equal(case.storage, expected)


@pytest.mark.parametrize("data_type", FLOATS)
def test_out_of_bounds_is_nan_where_the_map_says_so(data_type):
    for seed in SEEDS:
        case = Case(np.random.default_rng(seed), 2, data_type=data_type)
        out = torch.zeros(case.nbytes, dtype=torch.uint8)
        arguments = case.arguments(oob_fill=1)
        run(load_kernel(2, case.nbytes), out, 0, *arguments, readonly=[case.storage], seed=seed)
        got = out.numpy().view(case.tensor.dtype).reshape(case.shape)
        inside = case.inside()
        assert (got[inside] == case.loaded()[inside]).all()
        assert np.isnan(numbers(got[~inside], data_type)).all()


@pytest.mark.parametrize("swizzle", SWIZZLES)
def test_multicast(swizzle):
    for seed in SEEDS:
        case = Case(np.random.default_rng([seed, swizzle]), 2, swizzle)
        rows = 8  # of each half: it ends where all swizzles begin anew
        case.box[1], case.steps[1] = rows, 1
        arguments, nbytes = case.arguments(), 2 * rows * case.box[0] * case.tensor.itemsize
        case.box[1] = 2 * rows  # that the model loads
        out = torch.zeros(2 * nbytes, dtype=torch.uint8)
        text = multicast_kernel(nbytes)
        run(text, out, rows, *arguments, readonly=[case.storage], blocks=2, seed=seed)
        assert torch.equal(out, image_of(case, case.loaded()).repeat(2))


# Plain pieces.


@pytest.fixture
def pieces():
    """Two pieces of memory of 64 bytes, and what the second one holds."""
    first, second = (torch.randint(256, (64,), dtype=torch.uint8) for _ in range(2))
    return first, second, second.clone()


@pytest.mark.parametrize("seed", SEEDS)
def test_plain_load(pieces, seed):
    first, second, held = pieces
    run(plain_load_kernel(64), first, second, seed=seed)
    assert torch.equal(first, held)


@pytest.mark.parametrize("seed", SEEDS)
def test_plain_store(pieces, seed):
    first, second, _ = pieces
    run(plain_store_kernel(48), first, second, seed=seed)
    assert torch.equal(second[:48], first[:48])
    assert torch.equal(second[48:], pieces[2][48:])


@pytest.mark.parametrize("operation", REDUCTIONS)
def test_plain_reduction(pieces, operation):
    for seed in SEEDS:
        first, second, _ = pieces
        expected = REDUCTIONS[operation](*(t.numpy().view(np.uint32) for t in (second, first)))
        run(plain_reduce_kernel(64, operation, "u32"), first, second, seed=seed)
        assert (second.numpy().view(np.uint32) == expected).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_between_blocks(pieces, seed):
    first, second, _ = pieces
    run(swap_kernel(32), first, second, blocks=2, seed=seed)
    assert torch.equal(second, first.roll(32))


# What a kernel does wrong.


@pytest.fixture
def case():
    return Case(np.random.default_rng(0), 2, least_start=0)


@pytest.fixture
def out(case):
    return torch.zeros(case.nbytes, dtype=torch.uint8)


def test_a_store_has_no_negative_coordinate(case, out):
    case.start[1] = -1
    with pytest.raises(RuntimeError, match="a store's coordinate is negative"):
        run(store_kernel(2, case.nbytes), out, case.storage, *case.arguments())


def test_the_rank_is_that_of_the_map(case, out):
    with pytest.raises(RuntimeError, match="the tensor map is of rank 2"):
        run(load_kernel(3, case.nbytes), out, case.storage, *case.arguments(), ("i32", 0))


def test_a_map_comes_from_the_driver(case, out):
    arguments = [bytes(128), *case.arguments()[1:]]
    with pytest.raises(RuntimeError, match="not a tensor map"):
        run(load_kernel(2, case.nbytes), out, case.storage, *arguments)


def test_a_box_is_aligned_to_128_bytes(case, out):
    with pytest.raises(RuntimeError, match="is not a multiple of 128"):
        run(load_kernel(2, case.nbytes, to="box+64"), out, case.storage, *case.arguments())


def test_a_tensor_is_memory_of_the_gpu(case, out):
    case.start = [0, 0]
    with pytest.raises(RuntimeError, match="is outside all buffers"):
        run(load_kernel(2, case.nbytes), out, 0, *case.arguments())


def test_a_tensor_that_is_stored_to_is_writable(case, out):
    case.start = [0, 0]
    with pytest.raises(RuntimeError, match="in a buffer that may only be read"):
        run(store_kernel(2, case.nbytes), out, 0, *case.arguments(), readonly=[case.storage])


def test_a_mask_names_blocks_of_the_cluster(case, out):
    text = multicast_kernel(256, mask=0b100)
    with pytest.raises(RuntimeError, match="the mask names blocks that the cluster lacks"):
        run(text, out, 1, *case.arguments(), readonly=[case.storage], blocks=2)


def test_a_size_is_a_multiple_of_16_bytes(pieces):
    with pytest.raises(RuntimeError, match="the size, 24, is not a multiple of 16 bytes"):
        run(plain_load_kernel(24), pieces[0], pieces[1])


def test_a_piece_is_aligned_to_16_bytes(pieces):
    with pytest.raises(RuntimeError, match="is not a multiple of 16"):
        run(plain_load_kernel(16), pieces[0], pieces[1][8:])


def test_too_few_bytes_expected_end_the_wait_too_soon(case, out):
    text = load_kernel(2, case.nbytes).replace(expect(case.nbytes), expect(0))
    for seed in SEEDS:
        with pytest.raises(
            RuntimeError, match="that nobody has written|has yet to write|race: reads"
        ):
            run(text, out, case.storage, *case.arguments(), seed=seed)
