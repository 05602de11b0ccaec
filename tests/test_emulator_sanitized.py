"""The emulator with gcc's sanitizers: on mangled PTX (emulator/fuzz.cpp), and at ordinary work.

As a program it does the latter, EMULATOR_SANITIZE=1 and libasan.so and libstdc++.so in LD_PRELOAD.
It goes without torch, which takes long to load there.
"""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent))  # for the package of the emulator

import emulator  # noqa: E402
from emulator import build, conformance, snippets  # noqa: E402

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

ARCHITECTURE = "90a"
MMA, WGMMA, DECODE = (0, 3, 1), (1, 5, 1), (2, 2, 2)  # plans; the latter two have clusters
FUZZ_SEED, FUZZ_COUNT = 1, 3000
SNIPPETS = list({snippet.section: snippet for snippet in snippets.SNIPPETS}.values())
# What has no snippet, or one that is longer than it: scopes, functions, a variable of each space.
OTHER = """
.version 8.5
.target sm_90a
.address_size 64
.global .align 4 .b32 table[4] = {1, 2, 3, 4};
.const .b64 limit = 7;
.func (.param .b32 result) twice(.param .b32 x)
{
  .reg .b32 %r<3>;
  ld.param.b32 %r1, [x];
  add.s32 %r2, %r1, %r1;
  st.param.b32 [result], %r2;
  ret;
}
.visible .entry other(.param .u64 in, .param .u64 out)
{
  .reg .b32 %r<9>;
  .reg .b64 %rd<5>;
  .reg .pred %p<2>;
  .local .align 8 .b8 own[16];
  .shared .align 8 .b8 tile[256];
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, %tid.x;
  ld.const.u64 %rd2, [limit];
  mov.u64 %rd3, table;
  ld.global.u32 %r2, [%rd3+4];
  { .param .b32 p0; .param .b32 p1;
    st.param.b32 [p0], %r2;
    call.uni (p1), twice, (p0);
    ld.param.b32 %r3, [p1];
  }
again:
  add.u32 %r3, %r3, 1;
  setp.lt.u32 %p1, %r3, %r1;
  @%p1 bra again;
  st.local.u32 [own+8], %r3;
  shl.b32 %r4, %r1, 2;
  mov.u32 %r5, tile;
  add.u32 %r5, %r5, %r4;
  st.shared.u32 [%r5], %r3;
  bar.sync 0;
  atom.global.add.u32 %r6, [%rd1], 1;
  ret;
}
"""

# Each is wrong, and how.
WRONG = {
    "a hang": ("bar.sync 0, 64;", "hang: nothing can go on"),
    "a loop without an end": ("again: bra again;", "hang: still running after"),
    "a race": (
        "st.shared.b32 [word], %tid.x;",
        "race: overwrites what the store",
    ),
    "out of bounds": ("st.global.b32 [base+4096], %tid.x;", "outside all buffers"),
}


def wrong(body):
    return f"""
.version 8.5
.target sm_80
.address_size 64
.visible .entry wrong(.param .u64 out)
{{
  .reg .b64 base;
  .shared .align 4 .b32 word;
  ld.param.u64 base, [out];
  {body}
  ret;
}}
"""


@contextmanager
def registered(*arrays):
    """Let kernels read and write these."""
    for array in arrays:
        emulator.runtime().register_buffer(array.ctypes.data, array.nbytes, True)
    try:
        yield
    finally:
        for array in arrays:
            emulator.runtime().unregister_buffer(array.ctypes.data)


def check_snippet(snippet):
    inputs = snippets.inputs_of(snippet, 1)
    got, expected = conformance.on_emulator(snippet, inputs), snippets.expected_of(snippet, inputs)
    assert not snippets.first_difference(snippet, inputs, got, expected)


def check_wrong(body, message):
    out = np.zeros(64, np.uint32)
    with registered(out):
        try:
            emulator.launch(
                wrong(body), "wrong", (1, 1, 1), (32, 1, 1), arguments=[("ptr", out.ctypes.data)],
                max_instructions=10000,
            )  # fmt: skip
        except RuntimeError as error:
            assert message in str(error), error
        else:
            raise AssertionError("it ended well")


def check_quantize_rows(device, kernels, M, K):
    x = np.random.default_rng(0).standard_normal((M, K), np.float32)
    x_q, scale = np.zeros((M, K), np.int8), np.zeros(M, np.float32)
    with emulator.device(device), registered(x, x_q, scale):
        error = kernels.quantize_rows_cuda(
            x=x.ctypes.data, dtype=0, x_q=x_q.ctypes.data, x_q_stride=K,
            scale=scale.ctypes.data, M=M, K=K,
        )  # fmt: skip
        assert error is None, error
        emulator.synchronize()
    amax = abs(x).max(1)
    np.testing.assert_array_equal(scale, amax / np.float32(127))
    np.testing.assert_array_equal(x_q, np.rint(x * (np.float32(127) / amax)[:, None]))


def int8(rng, *shape):
    return rng.integers(-127, 128, shape, np.int8)


def check_int8_matmul(device, kernels, plan, M, N, K):
    rng = np.random.default_rng(0)
    x_q, w_q, y = int8(rng, M, K), int8(rng, N, K), np.zeros((M, N), np.float32)
    x_scale, w_scale = (rng.random(n, np.float32) for n in (M, N))
    arrays = {"x_q": x_q, "w_q": w_q, "x_scale": x_scale, "w_scale": w_scale, "y": y}
    fields = {name: array.ctypes.data for name, array in arrays.items()}
    for name in ("bias", "bias_dtype", "residual", "residual_dtype", "y_dtype", "act"):
        fields[name] = 0
    fields |= dict(zip(("kernel", "tile", "splits"), plan, strict=True), workspace=0)
    with emulator.device(device), registered(*arrays.values()):
        error = kernels.int8_matmul_cuda(**fields, x_q_stride=K, w_q_stride=K, M=M, N=N, K=K)
        assert error is None, error
        emulator.synchronize()
    sums = (x_q.astype(np.int32) @ w_q.astype(np.int32).T).astype(np.float32)
    np.testing.assert_array_equal(y, sums * x_scale[:, None] * w_scale)


def work():
    """Every instruction's family, every kernel, and what must be an error."""
    kernels = emulator.kernels()
    for snippet in SNIPPETS:
        check_snippet(snippet)
    for body, message in WRONG.values():
        check_wrong(body, message)
    for device in (emulator.A100, emulator.H100):
        for shape in ((3, 48), (2, 1000)):
            check_quantize_rows(device, kernels, *shape)
        for shape in ((5, 12, 48), (33, 20, 144)):
            check_int8_matmul(device, kernels, MMA, *shape)
    for plan in (WGMMA, DECODE):
        check_int8_matmul(emulator.H100, kernels, plan, 70, 132, 160)


def fuzz(seed, count, paths):
    """What the program prints; it fails where anything but an error came of mangled PTX."""
    command = [build.build_fuzz(), str(seed), str(count), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Files of PTX: every kernel's, and of each section of the manual a snippet's."""
    folder = tmp_path_factory.mktemp("corpus")
    for snippet in SNIPPETS:
        (folder / f"{snippets.kernel_of(snippet)}.ptx").write_text(snippets.ptx_of(snippet))
    (folder / "other.ptx").write_text(OTHER)
    sources = sorted(build.CSRC.glob("cuda/*.cu"))
    return build.in_parallel(lambda path: build.compile_ptx(path, ARCHITECTURE), sources), sorted(
        folder.iterdir()
    )


def test_corpus_runs(corpus):
    """Unmangled: snippets end well, and all else can at least be built."""
    kernels, others = corpus
    ended = fuzz(0, 0, others).splitlines()
    assert len(ended) == len(others)
    # Their inputs are zeros, which are no metadata of a sparse matrix, and no place of a tile.
    picky = "invalid sparse metadata|that nobody has written"
    assert [line for line in ended if not re.search("^ok |" + picky, line)] == []
    assert len(fuzz(0, 0, kernels).splitlines()) > len(kernels)


def test_mangled_ptx(corpus):
    """Errors, and no crashes; and the mangling leaves enough whole to be worth it."""
    said = fuzz(FUZZ_SEED, FUZZ_COUNT, corpus[0] + corpus[1])
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (.+)", said)}
    assert sum(counts.values()) == FUZZ_COUNT
    for kind in ("ended well", "failed while it ran", "was not built"):
        assert counts[kind] > FUZZ_COUNT // 50, said


def test_ordinary_work():
    # The sanitizer must find libstdc++ at the start, or it knows nothing of exceptions.
    preload = [
        build.run(*build.CXX, f"-print-file-name=lib{name}.so") for name in ("asan", "stdc++")
    ]
    environment = {
        "LD_PRELOAD": " ".join(map(str.strip, preload)),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaves much behind
        "EMULATOR_SANITIZE": "1",
    }
    done = subprocess.run(
        [sys.executable, __file__], env=os.environ | environment, capture_output=True, text=True
    )
    said = re.sub("^building the emulator in .*\n", "", done.stderr)
    assert done.returncode == 0 and not said, said[-4000:]


if __name__ == "__main__":
    del os.environ["LD_PRELOAD"]  # the compilers have no need of it
    work()
