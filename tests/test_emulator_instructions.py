"""Each instruction on the emulator, against its model; the models, against what is known."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent))  # for the package of the emulator

import emulator  # noqa: E402
from emulator import conformance, snippets, warp_snippets  # noqa: E402

SNIPPETS = {snippet.name: snippet for snippet in snippets.SNIPPETS}
PTXAS = shutil.which("ptxas") or shutil.which("ptxas", path="/usr/local/cuda/bin")


@pytest.mark.skipif(bool(emulator.MISSING), reason=str(emulator.MISSING))
@pytest.mark.parametrize("seed", snippets.SEEDS)
@pytest.mark.parametrize("name", SNIPPETS)
def test_instruction(name, seed):
    snippet = SNIPPETS[name]
    inputs = snippets.inputs_of(snippet, seed)
    got = conformance.on_emulator(snippet, inputs, seed)
    expected = snippets.expected_of(snippet, inputs)
    found = snippets.first_difference(snippet, inputs, got, expected)
    if found:
        pytest.fail(f"{found}; see {snippet.section}", pytrace=False)


@pytest.mark.skipif(PTXAS is None, reason="no ptxas")
@pytest.mark.parametrize("arch", sorted({snippet.arch for snippet in snippets.SNIPPETS}))
def test_every_snippet_assembles(arch, tmp_path):
    """ptxas knows each instruction, on the least architecture that it is said to need."""
    some = [snippet for snippet in snippets.SNIPPETS if snippet.arch == arch]
    path = tmp_path / f"{arch}.ptx"
    path.write_text(snippets.module_of(some, arch))
    subprocess.run([PTXAS, f"-arch={arch}", path, "-o", tmp_path / "cubin"], check=True)


def model(name, *inputs):
    """The outputs of a snippet's first thread, for one vector of inputs."""
    columns = [np.full(SNIPPETS[name].threads, x, np.uint64) for x in inputs]
    return [int(np.asarray(column)[0]) for column in SNIPPETS[name].model(columns)]


NAN32, INF32 = 0x7FC00000, 0x7F800000


@pytest.mark.parametrize(
    "name, inputs, outputs",
    [
        ("mul.hi.s32", (0x80000000, 0x80000000), [0x40000000]),
        ("div.s32", (0xFFFFFFF9, 2), [0xFFFFFFFD]),
        ("rem.s32", (0xFFFFFFF9, 2), [0xFFFFFFFF]),
        ("add.sat.s32", (0x7FFFFFFF, 1), [0x7FFFFFFF]),
        ("bfe.s32", (0x00000F80, 7, 5), [0xFFFFFFFF]),
        ("bfe.s32", (0x80000000, 40, 4), [0xFFFFFFFF]),
        ("bfi.b32", (0xFF, 0, 28, 8), [0xF0000000]),
        ("bfind.s32", (0xFFFFFFFF,), [0xFFFFFFFF]),
        ("bfind.shiftamt.u32", (0x00010000,), [15]),
        ("shl.b32", (1, 32), [0]),
        ("shr.s32", (0x80000000, 99), [0xFFFFFFFF]),
        ("shf.l.clamp.b32", (0x11111111, 0x22222222, 32), [0x11111111]),
        ("shf.r.wrap.b32", (0x89ABCDEF, 0x01234567, 8), [0x6789ABCD]),
        ("prmt.b32", (0x80004321, 0x87654321, 0x0FB7), [0x21FFFF87]),
        ("lop3.b32 0x1a", (0xF0, 0xCC, 0xAA), [0x1A]),
        ("dp4a.s32.u32", (0xFF010101, 0xFF010101, 0), [(3 - 255) & 0xFFFFFFFF]),
        ("add.rn.f32", (0x3F800000, 0x33800000), [0x3F800000]),
        ("add.rp.f32", (0x3F800000, 0x33800000), [0x3F800001]),
        ("add.rm.f32", (0x3F800000, 0xBF800000), [0x80000000]),
        ("mul.rn.ftz.f32", (0x00800000, 0x3F000000), [0]),
        ("add.sat.f16", (0x7C00, 0xFC00), [0]),
        ("min.f32", (0x00000000, 0x80000000), [0x80000000]),
        ("max.xorsign.abs.f32", (0xC0000000, 0x3F800000), [0xC0000000]),
        ("setp.ne.f32", (NAN32, NAN32), [0]),
        ("setp.neu.f32", (NAN32, NAN32), [1]),
        ("cvt.rni.s32.f32", (0x40200000,), [2]),
        ("cvt.rni.s32.f32", (NAN32,), [0]),
        ("cvt.rzi.s64.f32", (NAN32,), [1 << 63]),
        ("cvt.rzi.u8.f32", (0xBF800000,), [0]),
        ("cvt.rzi.s8.f32", (0xC3800000,), [0xFFFFFF80]),
        ("cvt.s8.u32", (0x1FF,), [0xFFFFFFFF]),
        ("cvt.sat.u8.s32", (0xFFFFFFFF,), [0]),
        ("cvt.rn.f16x2.f32", (0x3F800000, 0x40000000), [0x3C004000]),
        ("cvt.rn.satfinite.e4m3x2.f32", (0x447A0000, NAN32), [0x7E7F]),
        ("cvt.rn.satfinite.e5m2x2.f32", (INF32, 0xBF800000), [0x7BBC]),
        ("cvt.rn.f16x2.e4m3x2", (0x3838,), [0x3C003C00]),
        ("cvt.rna.tf32.f32", (0x3F801000,), [0x3F802000]),
        ("slct.f32.f32", (1, 2, 0x80000000), [1]),
        ("ex2.approx.f32", (0x40400000,), [0x41000000]),
        ("rsqrt.approx.f32", (0x80000000,), [0xFF800000]),
    ],
)
def test_model(name, inputs, outputs):
    """Values that are plain from the manual, worked out by hand."""
    masks = [(1 << snippets.register(kind)) - 1 for kind in SNIPPETS[name].outputs]
    assert [x & m for x, m in zip(model(name, *inputs), masks, strict=True)] == outputs


@pytest.mark.parametrize("t", ["f32", "f64"])
@pytest.mark.parametrize(
    "operation, f",
    [("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("div", np.divide)],
)
def test_exact_floats_are_those_of_ieee_754(operation, f, t):
    """The fractions, rounded to nearest, against the CPU's arithmetic."""
    snippet = SNIPPETS[f"{operation}.rn.{t}"]
    inputs = np.concatenate([snippets.inputs_of(snippet, seed) for seed in range(8)])
    unsigned = np.uint32 if t == "f32" else np.uint64
    a, b = (x.astype(unsigned).view(np.float32 if t == "f32" else np.float64) for x in inputs.T)
    with np.errstate(all="ignore"):
        expected = f(a, b)
    got = snippet.model(list(inputs.T))[0].astype(unsigned).view(expected.dtype)
    np.testing.assert_array_equal(got, expected)
    assert (np.signbit(got) == np.signbit(expected))[~np.isnan(got)].all()


@pytest.mark.parametrize("pattern", [16, 32, 64, 128])
def test_a_swizzle_moves_16_bytes_within_a_pattern(pattern):
    offsets = np.arange(0, 8 * pattern, 16)
    moved = np.array([warp_snippets.swizzled(int(x), pattern) for x in offsets])
    assert sorted(moved) == list(offsets)
    assert (moved // pattern == offsets // pattern).all()
    banks = moved.reshape(8, -1)[:, 0] // 16 % 8
    assert len(set(banks)) == 8  # a column of 8 rows is read without conflicts
