"""What Triton's kernels become for each GPU, read from the compiled code with no GPU at hand.

budgets/triton.json holds the registers and the shared memory that each kernel may take. After a
change that earns more, raise them:  python tests/test_static_triton.py --write
That never lowers one, so that it can be run under several releases of Triton in turn; to lower them
all, delete the file first.
"""

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from emulator.triton_compiler import compile_kernel

BUDGETS = Path(__file__).parent / "budgets" / "triton.json"
ARCHITECTURES = (80, 89, 90, 100, 120)
SHARED_MEMORY = {80: 163, 89: 99, 90: 227, 100: 227, 120: 99}  # KB that a block may have

# Dtype of x, K: rows shorter than a program's tile, as long, longer, and with no 16-byte loads.
QUANTIZE_ROWS = [("bf16", 64), ("fp32", 4096), ("fp16", 11008), ("bf16", 77)]
# Output's dtype, act, M, N, K: every tile, those for float64 arithmetic too, and odd sizes.
INT8_MATMUL = [
    ("fp32", "none", 4096, 4096, 4096),
    ("fp16", "silu", 64, 16384, 4096),
    ("bf16", "none", 64, 512, 4096),
    ("bf16", "relu", 16, 4096, 4096),
    ("fp32", "relu", 512, 4096, 4096),
    ("fp32", "gelu", 4096, 4096, 4096),
    ("fp32", "gelu", 16, 4096, 4096),
    ("bf16", "none", 4096, 50257, 768),
    ("fp32", "none", 4097, 4095, 77),
    ("fp16", "relu", 1, 65, 77),
]
# Dtype of x and y, act, M, N, K: every tile, and rows with no 16-byte loads.
INT8_WEIGHT_LINEAR = [
    ("bf16", "none", 4096, 4096, 4096),
    ("fp16", "relu", 64, 16384, 4096),
    ("bf16", "none", 64, 512, 4096),
    ("fp16", "silu", 16, 4096, 4096),
    ("bf16", "relu", 17, 65, 77),
    ("fp32", "gelu", 4096, 4096, 4096),
    ("fp32", "none", 16, 4096, 4096),
]


def name(op, case, arch):
    return " ".join(map(str, (op, *case, f"sm_{arch}")))


def cases(op, table):
    return [
        pytest.param(name(op, c, a), *c, a, id=name(op, c, a)) for c in table for a in ARCHITECTURES
    ]


def compile_for(arch, kernel, pointers, sizes, constants, options):
    """Compile a kernel as a launch with these arguments would, and describe what came out."""
    import triton

    ones = {size: 1 for size, value in sizes.items() if value == 1}  # a launch makes them constants
    constants, sizes = constants | ones, {k: v for k, v in sizes.items() if k not in ones}
    kinds = pointers | dict.fromkeys(sizes, "i32")
    signature = {argument: kinds.get(argument, "constexpr") for argument in kernel.arg_names}
    divisible = [
        argument
        for argument, kind in kinds.items()
        if sizes.get(argument, 0) % 16 == 0 and not kind.startswith("tensordesc")
    ]
    compiled = compile_kernel(arch, kernel, signature, constants, divisible, options)

    cuobjdump = triton.knobs.nvidia.cuobjdump.path
    path = f"{Path(cuobjdump).parent}:{os.environ['PATH']}"  # where cuobjdump looks for nvdisasm
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        dump = subprocess.run(
            [cuobjdump, "-sass", "-res-usage", file.name],
            env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    sass = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", dump)
    ptx = re.findall(r"^\s*(?:@!?%\w+\s+)?([a-z][\w.:]+)\s", compiled.asm["ptx"], re.MULTILINE)
    return {
        "registers": int(re.search(r"REG:(\d+)", dump)[1]),
        "shared": compiled.metadata.shared,
        "stack": sum(int(n) for n in re.findall(r"(?:STACK|LOCAL):(\d+)", dump)),
        "ptx": sorted(set(ptx)),
        "sass": collections.Counter(sass),
    }


def compile_quantize_rows(arch, dtype, K):
    from green_kernels.triton_kernels import quantize_rows

    tile, options = quantize_rows.launch(K)
    pointers = {"x_ptr": f"*{dtype}", "x_q_ptr": "*i8", "scale_ptr": "*fp32"}
    kernel = quantize_rows._quantize_rows_kernel
    return compile_for(arch, kernel, pointers, {"M": 4096, "K": K}, tile, options)


def compile_int8_matmul(arch, dtype, act, M, N, K):
    from green_kernels.triton_kernels import int8_matmul

    precise = dtype == "fp32" and act not in ("none", "relu")
    tile, options, resident = int8_matmul.launch(M, N, K, arch, precise)
    kernel = int8_matmul._int8_matmul_kernel
    pointers = dict.fromkeys(("x_q_ptr", "w_q_ptr"), "*i8")
    if resident:
        kernel = int8_matmul._int8_matmul_persistent_kernel
        blocks = {"x_q": tile["BLOCK_M"], "w_q": tile["BLOCK_N"]}
        pointers = {k: f"tensordesc<i8[{rows},{tile['BLOCK_K']}]>" for k, rows in blocks.items()}
    pointers |= dict.fromkeys(("x_scale_ptr", "w_scale_ptr"), "*fp32")
    pointers |= dict.fromkeys(("bias_ptr", "residual_ptr", "y_ptr"), f"*{dtype}")
    constants = {"ACT": act, "PRECISE": precise, **tile}
    sizes = {"M": M, "N": N, "K": K}
    found = compile_for(arch, kernel, pointers, sizes, constants, options)
    return found | {"persistent": resident > 0}


def compile_int8_weight_linear(arch, dtype, act, M, N, K):
    from green_kernels.triton_kernels import int8_weight_linear

    precise = dtype == "fp32" and act not in ("none", "relu")
    itemsize = 4 if dtype == "fp32" else 2
    tile, options = int8_weight_linear.launch(M, N, K, itemsize, precise)
    pointers = dict.fromkeys(("x_ptr", "bias_ptr", "residual_ptr", "y_ptr"), f"*{dtype}")
    pointers |= {"w_q_ptr": "*i8", "w_scale_ptr": "*fp32"}
    constants = {"ACT": act, "PRECISE": precise, **tile}
    kernel = int8_weight_linear._int8_weight_linear_kernel
    return compile_for(arch, kernel, pointers, {"M": M, "N": N, "K": K}, constants, options)


def compile_all():
    found = {}
    for arch in ARCHITECTURES:
        for case in QUANTIZE_ROWS:
            found[name("quantize_rows", case, arch)] = compile_quantize_rows(arch, *case)
        for case in INT8_MATMUL:
            found[name("int8_matmul", case, arch)] = compile_int8_matmul(arch, *case)
        for case in INT8_WEIGHT_LINEAR:
            key = name("int8_weight_linear", case, arch)
            found[key] = compile_int8_weight_linear(arch, *case)
    return found


def read_budgets():
    return json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}


def write_budgets(found):
    before, after = read_budgets(), {}
    for kernel, figures in found.items():
        limits = {key: figures[key] for key in ("registers", "shared")}
        after[kernel] = {k: max(v, before.get(kernel, limits)[k]) for k, v in limits.items()}
    lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(after[k])}" for k in sorted(after))
    BUDGETS.write_text(f"{{\n{lines}\n}}\n")


@pytest.fixture(scope="module")
def compiled():
    """All of compile_all(), from a process where Triton compiles: in this one it may interpret."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


ALL = (
    cases("quantize_rows", QUANTIZE_ROWS)
    + cases("int8_matmul", INT8_MATMUL)
    + cases("int8_weight_linear", INT8_WEIGHT_LINEAR)
)


@pytest.mark.parametrize("kernel", [c.values[0] for c in ALL])
def test_budget(compiled, kernel):
    figures, budget = compiled[kernel], read_budgets()[kernel]
    most = SHARED_MEMORY[int(kernel.rpartition("_")[2])] * 1024
    assert figures["stack"] == 0, "registers spilled to memory"
    assert figures["registers"] <= budget["registers"]
    assert figures["shared"] <= budget["shared"] <= most


@pytest.mark.parametrize("kernel, dtype, K, arch", cases("quantize_rows", QUANTIZE_ROWS))
def test_quantize_rows_divides_and_rounds_as_ieee_does(compiled, kernel, dtype, K, arch):
    ptx, sass = compiled[kernel]["ptx"], compiled[kernel]["sass"]
    assert [o for o in ptx if o.startswith("div.") and "f32" in o] == ["div.rn.f32"]
    assert not [o for o in ptx if o.startswith("fma.")]
    # A thread multiplies 32 values in each tile, and no product is fused with the sum after it.
    assert sass["FMUL"] >= (32 if K <= 4096 else 64)


@pytest.mark.parametrize("kernel, dtype, act, M, N, K, arch", cases("int8_matmul", INT8_MATMUL))
def test_int8_matmul_runs_on_tensor_cores(compiled, kernel, dtype, act, M, N, K, arch):
    expected = r"mma\.sync\.aligned\.m16n8k32\.row\.col(\.satfinite)?\.s32\.s8\.s8\.s32"
    if arch == 90 and M > 16:
        expected = r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.s32\.s8\.s8"
    elif arch == 100 and M > 16:  # Triton 3.6 has no int8 tcgen05
        expected += r"|tcgen05\.mma\.cta_group::1\.kind::i8"
    assert any(re.fullmatch(expected, opcode) for opcode in compiled[kernel]["ptx"])


@pytest.mark.parametrize("kernel, dtype, act, M, N, K, arch", cases("int8_matmul", INT8_MATMUL))
def test_int8_matmul_loads_ahead(compiled, kernel, dtype, act, M, N, K, arch):
    copies = [o for o in compiled[kernel]["ptx"] if o.startswith("cp.async.")]
    assert bool(copies) == (K % 16 == 0)  # other rows have no 16 bytes to copy at once


@pytest.mark.parametrize("kernel, dtype, act, M, N, K, arch", cases("int8_matmul", INT8_MATMUL))
def test_int8_matmul_loads_by_descriptors_where_it_stays(
    compiled, kernel, dtype, act, M, N, K, arch
):
    persistent = arch >= 90 and M > 16 and K % 16 == 0
    assert compiled[kernel]["persistent"] == persistent
    descriptors = {o.split(".")[0] for o in compiled[kernel]["sass"]} & {"UTMALDG", "LDGSTS"}
    assert ("UTMALDG" in descriptors) == persistent
    assert ("LDGSTS" in descriptors) == (K % 16 == 0 and not persistent)


@pytest.mark.parametrize(
    "kernel, dtype, act, M, N, K, arch",
    [c for c in cases("int8_matmul", INT8_MATMUL) if c.values[2] in ("none", "relu")],
)
def test_epilogue_rounds_each_operation(compiled, kernel, dtype, act, M, N, K, arch):
    opcodes = [*compiled[kernel]["ptx"], *(o.lower() for o in compiled[kernel]["sass"])]
    assert not [o for o in opcodes if re.match(r"f?fma2?\b", o)]


@pytest.mark.parametrize(
    "kernel, dtype, act, M, N, K, arch", cases("int8_weight_linear", INT8_WEIGHT_LINEAR)
)
def test_int8_weight_linear_multiplies_as_its_dtype_asks(
    compiled, kernel, dtype, act, M, N, K, arch
):
    """Tensor cores for the narrow dtypes; float32 is not rounded to tf32 for them."""
    ptx = compiled[kernel]["ptx"]
    copies = [o for o in ptx if o.startswith("cp.async.")]
    assert bool(copies) == (K % 16 == 0)
    products = [o for o in ptx if re.match(r"(wg)?mma\.|tcgen05\.mma\.", o)]
    if dtype == "fp32":
        assert not products
        return
    kind = {"bf16": "bf16", "fp16": "f16"}[dtype]
    expected = rf"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.{kind}\.{kind}\.f32"
    if arch == 90:
        expected = rf"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.{kind}\.{kind}"
    elif arch == 100:
        expected = r"tcgen05\.mma\.cta_group::1\.kind::f16"
    assert any(re.fullmatch(expected, o) for o in products)
    # Nothing is fused in what follows the sums: each operation is rounded.
    if act in ("none", "relu"):
        opcodes = [*ptx, *(o.lower() for o in compiled[kernel]["sass"])]
        assert not [o for o in opcodes if re.match(r"f?fma2?\b", o)]


if __name__ == "__main__":
    found = compile_all()
    if "--write" in sys.argv:
        write_budgets(found)
    else:
        print(json.dumps(found))
