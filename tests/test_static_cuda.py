"""What nvcc makes of the CUDA kernels for each GPU, read from compiled code, with no GPU at hand.

budgets/cuda.json holds the registers and the static shared memory that each kernel may take. After
a change that earns more, raise them:  python tests/test_static_cuda.py --write
That never lowers one, so that it can be run under several releases of nvcc in turn; to lower them
all, delete the file first.
"""

import ast
import collections
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from emulator.build import architectures_of

ROOT = Path(__file__).parent.parent
BUDGETS = Path(__file__).parent / "budgets" / "cuda.json"
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))


def constant(name):
    """A constant of setup.py, which cannot be imported: it would build."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise LookupError(f"setup.py has no {name}")


def find_nvcc():
    for folder in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if folder and Path(folder, "bin/nvcc").exists():
            return str(Path(folder, "bin/nvcc"))
    return shutil.which("nvcc")


def find_cuobjdump():
    """That of PyPI, of no CUDA toolkit; it finds nvdisasm beside itself, when that is on PATH."""
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else ():
        for path in Path(folder).glob("*/bin/cuobjdump"):
            return str(path)
    return shutil.which("cuobjdump")


NVCC, CUOBJDUMP = find_nvcc(), find_cuobjdump()
pytestmark = [
    pytest.mark.skipif(NVCC is None, reason="needs nvcc"),
    pytest.mark.skipif(CUOBJDUMP is None, reason="needs nvidia-cuda-cuobjdump and -nvdisasm"),
]


def run(*command):
    path = f"{Path(CUOBJDUMP).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def architectures():
    """Those that setup.py builds for by default, and this nvcc knows."""
    known = {line.removeprefix("compute_") for line in run(NVCC, "--list-gpu-arch").split()}
    return [arch for arch in constant("CUDA_ARCHITECTURES") if arch.rstrip("af") in known]


def nvcc(source, arch, kind, target):
    flags = [*constant("NVCC_FLAGS"), "-Xptxas=-v"]
    return run(NVCC, *flags, f"-arch=sm_{arch}", kind, source, "-o", target)


def readable(text):
    """`text`, each mangled name of a kernel in it as `kernel<arguments>`."""
    names = sorted(set(re.findall(r"\b_ZN13green_kernels\w+", text)), key=len, reverse=True)
    plain = run("c++filt", *names).split("\n") if names else []
    for mangled, name in zip(names, plain, strict=False):
        name = name.replace("(anonymous namespace)::", "").split("(")[0]
        text = text.replace(mangled, name.split("green_kernels::", 1)[1].replace(" ", ""))
    return text


def compile_for(source, arch):
    """{kernel: its figures and how often each opcode stands in it}."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder, "kernels.cubin"))
        log = readable(nvcc(source, arch, "-cubin", cubin))
        sass = readable(run(CUOBJDUMP, "-sass", cubin))
    warnings = re.findall(r"C75\d\d", log)
    kernels = {}
    for part in log.split("Compiling entry function '")[1:]:
        sizes = re.search(r"(\d+) bytes stack.* (\d+) bytes spill stores, (\d+) bytes spill", part)
        shared = re.search(r"(\d+) bytes smem", part)
        kernels[part.split("'")[0]] = {
            "registers": int(re.search(r"Used (\d+) registers", part)[1]),
            "shared": int(shared[1]) if shared else 0,
            "spilled": sum(map(int, sizes.groups())),
            "warnings": warnings,  # of the whole file
        }
    for part in sass.split("Function : ")[1:]:
        opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", part)
        kernels[part.split()[0]]["sass"] = collections.Counter(opcodes)
    return kernels


def compile_all():
    """{architecture: {kernel: figures}} of every file for every architecture."""
    built = architectures()
    jobs = [(source, arch) for source in SOURCES for arch in architectures_of(source, built)]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count())) as pool:
        found = {arch: {} for _, arch in jobs}
        for (_, arch), kernels in zip(
            jobs, pool.map(lambda job: compile_for(*job), jobs), strict=True
        ):
            found[arch] |= kernels
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
    return compile_all()


@pytest.fixture(params=constant("CUDA_ARCHITECTURES"))
def arch(request, compiled):
    if request.param not in compiled:
        pytest.skip(f"this nvcc does not compile for sm_{request.param}")
    return request.param


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
        pytest.skip("this nvcc does not compile for sm_90a")
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


def test_ptxas_does_not_serialise_wgmma(compiled):
    """It warns of that as C75xx."""
    for arch, kernels in compiled.items():
        for kernel, figures in kernels.items():
            assert not figures["warnings"], (arch, kernel)


def test_sums_wrap_and_nothing_saturates():
    ptx = emitted("int8_matmul_mma")
    assert set(re.findall(r"mma\.sync[\w.]*", ptx)) == {
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
    }


def test_rows_are_divided_and_rounded_as_ieee_does():
    ptx = emitted("quantize_rows")
    assert set(re.findall(r"\bdiv\.[\w.]+f32", ptx)) == {"div.rn.f32"}
    assert set(re.findall(r"\bcvt\.[\w.]*s32\.f32", ptx)) == {"cvt.rni.s32.f32"}
    assert not re.search(r"\bfma\.", ptx)


def emitted(stem):
    """The PTX of a file, for the first architecture, which is also what later GPUs are given."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "kernels.ptx")
        source = next(source for source in SOURCES if source.stem == stem)
        nvcc(source, constant("CUDA_ARCHITECTURES")[0], "-ptx", str(target))
        return target.read_text()


if __name__ == "__main__":
    found = compile_all()
    if "--write" in sys.argv:
        write_budgets(found)
    else:
        print(json.dumps(found, indent=1))
