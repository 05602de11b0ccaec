"""What nvcc made of the CUDA kernels for each GPU, read from the built extension, with no GPU.

budgets/cuda.json holds the registers and the static shared memory that each kernel may take. After
a change that earns more, build, and raise them:  python tests/test_static_cuda.py --write
That never lowers one, so that it can be run under several releases of nvcc in turn; to lower them
all, delete the file first.
"""

import collections
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from emulator import build

import green_kernels as gk

BUDGETS = Path(__file__).parent / "budgets" / "cuda.json"
EXTENSION = find_spec("green_kernels._C")
BUILT = gk.build_info().get("cuda_architectures", "").split(";")


def find_cuobjdump():
    """That of PyPI, of no CUDA toolkit; it finds nvdisasm beside itself, when that is on PATH."""
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        for path in Path(folder).glob("*/bin/cuobjdump"):
            return str(path)
    return shutil.which("cuobjdump")


CUOBJDUMP = find_cuobjdump()
pytestmark = [
    pytest.mark.skipif(BUILT == [""], reason="no CUDA kernels were built"),
    pytest.mark.skipif(CUOBJDUMP is None, reason="needs nvidia-cuda-cuobjdump and -nvdisasm"),
]


def run(*command):
    path = f"{Path(CUOBJDUMP).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def readable(text):
    """`text`, each mangled name of a kernel in it as `kernel<arguments>`."""
    names = sorted(set(re.findall(r"\b_ZN13green_kernels\w+", text)), key=len, reverse=True)
    plain = run("c++filt", *names).split("\n") if names else []
    short = {}
    for mangled, name in zip(names, plain, strict=False):
        name = name.replace("(anonymous namespace)::", "").split("(")[0]
        short[mangled] = name.split("green_kernels::", 1)[1].replace(" ", "")
    return re.sub(r"\b_ZN13green_kernels\w+", lambda match: short[match[0]], text)


def kernels(kind):
    """(architecture, kernel, its text) of all that cuobjdump shows of the extension's kernels."""
    for part in readable(run(CUOBJDUMP, kind, EXTENSION.origin)).split("\narch = sm_")[1:]:
        architecture = part.split(None, 1)[0]
        for text in re.split(r"Function :? ?", part)[1:]:
            name, rest = text.split(None, 1)
            yield architecture, name.rstrip(":"), rest


def read_all():
    """{architecture: {kernel: its figures and how often each opcode stands in it}}."""
    found = collections.defaultdict(dict)
    for architecture, kernel, text in kernels("-res-usage"):
        figures = {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", text)}
        found[architecture][kernel] = {
            "registers": figures["REG"],
            "shared": figures["SHARED"],
            "spilled": figures["STACK"] + figures["LOCAL"],
        }
    for architecture, kernel, text in kernels("-sass"):
        opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text)
        found[architecture][kernel]["sass"] = collections.Counter(opcodes)
    return found


def read_budgets():
    return json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}


def write_budgets(found):
    budgets = read_budgets()
    for arch, kernels in found.items():
        before = budgets.get(arch, {})
        budgets[arch] = {
            kernel: {
                key: max(figures[key], before.get(kernel, figures)[key])
                for key in ("registers", "shared")
            }
            for kernel, figures in sorted(kernels.items())
        }
    parts = [
        f"  {json.dumps(arch)}: {{\n"
        + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in kernels.items())
        + "\n  }"
        for arch, kernels in budgets.items()
    ]
    BUDGETS.write_text("{\n" + ",\n".join(parts) + "\n}\n")


@pytest.fixture(scope="module")
def compiled():
    return read_all()


@pytest.fixture(params=sorted({*read_budgets(), *BUILT}))
def arch(request):
    if request.param not in BUILT:
        pytest.skip(f"this extension was not built for sm_{request.param}")
    return request.param


def test_the_extension_is_newer_than_its_sources():
    """Or the kernels that are looked at here are not those of csrc/."""
    built = Path(EXTENSION.origin).stat().st_mtime
    newer = [path for path in build.CSRC.rglob("*.*") if path.stat().st_mtime > built]
    assert not newer, f"build first: {EXTENSION.origin} is older than {newer[0]}"


def opcodes(figures, *names):
    """How often opcodes that begin with one of `names` stand in a kernel."""
    return sum(n for o, n in figures["sass"].items() if o.split(".")[0] in names)


def test_budget(compiled, arch):
    budgets = read_budgets()[arch]
    assert sorted(compiled[arch]) == sorted(budgets)
    for kernel, figures in compiled[arch].items():
        assert figures["registers"] <= budgets[kernel]["registers"], kernel
        assert figures["shared"] <= budgets[kernel]["shared"], kernel


def test_nothing_lives_in_local_memory(compiled, arch):
    for kernel, figures in compiled[arch].items():
        assert figures["spilled"] == 0, kernel
        assert opcodes(figures, "LDL", "STL") == 0, kernel


def test_int8_matmul_multiplies_on_tensor_cores_from_shared_memory(compiled, arch):
    """In the loop over K, once for each stage: every mma, ldmatrix and cp.async, and no more."""
    from green_kernels._C import schedule

    for i, tile in enumerate(schedule.TILES):
        sass = compiled[arch][f"int8_matmul_kernel<{i}>"]["sass"]
        steps, rows, columns = tile.k // 32, tile.warp_m // 16, tile.warp_n // 16
        assert sass["IMMA.16832.S8.S8"] == steps * rows * columns * 2
        loads = steps * (rows + columns) + rows + columns  # and those before the loop
        assert sass["LDSM.16.M88.4"] == loads
        copies = (tile.m + tile.n) * tile.chunks_per_row // tile.threads
        assert sass["LDGSTS.E.BYPASS.LTC128B.128.ZFILL"] == 2 * copies


def test_int8_weight_linear_multiplies_on_tensor_cores(compiled, arch):
    """In the loop over K, once for each stage or step: every mma, load and copy, and no more."""
    from green_kernels._C import schedule

    types = {"__half": ("", 1), "__nv_bfloat16": (".BF16", 1), "float": (".BF16", 3)}
    for name, slices, wide in itertools.product(types, (1, 2), ("true", "false")):
        figures = compiled[arch][f"int8_weight_linear_skinny_kernel<{name},{slices},{wide}>"]
        suffix, parts = types[name]
        assert figures["sass"][f"HMMA.16816.F32{suffix}"] == 4 * parts * slices
        assert figures["sass"]["LDS.128"] == 2
        assert opcodes(figures, "LDGSTS") == 4 * 2  # three steps ahead, then one in the loop
    for name, (i, tile) in itertools.product(list(types)[:2], enumerate(schedule.WEIGHT_TILES)):
        figures = compiled[arch][f"int8_weight_linear_tiles_kernel<{name},{i}>"]
        rows, columns = tile.warp_m // 16, tile.warp_n // 8
        assert figures["sass"][f"HMMA.16816.F32{types[name][0]}"] == 4 * rows * columns
        assert figures["sass"]["LDS.128"] == 4 * rows + columns + 1  # and the sums
        copies = (tile.m * 2 + tile.n) * 64 // 16 // tile.threads
        assert opcodes(figures, "LDGSTS") == 2 * copies


def test_memory_moves_sixteen_bytes_at_a_time_where_it_can(compiled, arch):
    def has(sass, pattern):
        return any(re.match(pattern, opcode) for opcode in sass)

    for kernel, figures in compiled[arch].items():
        if kernel.startswith("quantize_rows"):  # x, then its eight bytes of x_q
            if kernel.endswith("true>"):  # rows that are aligned
                assert has(figures["sass"], r"LDG\.E\.128"), kernel
                assert has(figures["sass"], r"STG\.E\.64"), kernel
        elif kernel != "zero_kernel":  # four of residual and y: float32, then 16 bits
            for opcode in (r"LDG\.E\.128", r"LDG\.E\.64", r"STG\.E\.128", r"STG\.E\.64"):
                assert has(figures["sass"], opcode), (kernel, opcode)


def test_sm_90a_multiplies_by_wgmma_what_tma_copies(compiled):
    """Four wgmmas deep a stage, of a consumer; y of many rows goes back by TMA, of few by lanes."""
    from green_kernels._C import plans

    if "90a" not in compiled:
        pytest.skip("this extension was not built for sm_90a")
    for kernel, figures in compiled["90a"].items():
        opcodes = figures["sass"]
        if kernel.startswith("int8_matmul_wgmma_kernel"):
            tile = plans.WGMMA_TILES[int(re.search(r"<(\d+)", kernel)[1])]
            count = 4 * (tile.m // 128)
            assert opcodes[f"IGMMA.64x{tile.n}x32.S8.S8"] == count, kernel
            assert opcodes["UTMASTG.2D"] > 0, kernel
        elif kernel.startswith("int8_matmul_decode_kernel"):
            tile = plans.DECODE_TILES[int(re.search(r"<(\d+)", kernel)[1])]
            assert opcodes[f"IGMMA.64x{tile.tokens}x32.S8.S8"] == 4, kernel
        else:
            continue
        assert any(opcode.startswith("UTMALDG.2D") for opcode in opcodes), kernel


@pytest.mark.skipif(build.find_toolkit() is None, reason="needs nvcc")
@pytest.mark.parametrize(
    "source", sorted(build.CSRC.glob("cuda/*_sm90a.cu")), ids=lambda path: path.stem
)
def test_ptxas_does_not_serialise_wgmma(source):
    """It warns of that as C75xx, and says nothing else."""
    nvcc = build.find_toolkit() / "bin/nvcc"
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "kernels.cubin")
        words = run(nvcc, *build.nvcc_flags(), "-arch=sm_90a", "-cubin", source, "-o", target)
        assert target.exists() and not words


def emitted(kernel):
    """The PTX of the file that has this kernel, for the first architecture: later GPUs get it."""
    files = run(CUOBJDUMP, "-ptx", EXTENSION.origin).split("Fatbin ptx code:")[1:]
    [text] = [text for text in files if re.search(rf"\.entry \w*\d{kernel}I", text)]
    return text


def test_sums_wrap_and_nothing_saturates():
    assert set(re.findall(r"mma\.sync[\w.]*", emitted("int8_matmul_kernel"))) == {
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
    }


def test_rows_are_divided_and_rounded_as_ieee_does():
    ptx = emitted("quantize_rows_kernel")
    assert set(re.findall(r"\bdiv\.[\w.]+f32", ptx)) == {"div.rn.f32"}
    assert set(re.findall(r"\bcvt\.[\w.]*s32\.f32", ptx)) == {"cvt.rni.s32.f32"}
    assert not re.search(r"\bfma\.", ptx)


if __name__ == "__main__":
    found = read_all()
    if "--write" in sys.argv:
        write_budgets(found)
    else:
        print(json.dumps(found, indent=1))
