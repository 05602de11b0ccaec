"""The promises of the layout: every op has its kernels, and every folder knows it by one name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import green_kernels as gk

ROOT = Path(__file__).parent.parent
HOMES = [
    "csrc/cpu/{}.cpp",
    "csrc/cuda/{}.h",
    "csrc/cuda/{}.cu",
    "csrc/cuda/{}.cpp",
    "triton_kernels/{}.py",
    "green_kernels/ops/{}.py",
    "tests/test_{}.py",
    "bench/cases/{}.py",
]


@pytest.mark.parametrize("op", gk.ops.OPS)
@pytest.mark.parametrize("home", HOMES)
def test_op_is_where_its_name_says(op, home):
    assert (ROOT / home.format(op)).exists()


# What each part may import of the others: the arrow model -> convert -> nn -> ops -> kernel.
MAY_IMPORT = {
    "green_kernels/ops": {"ops", "_C", "triton_kernels"},
    "green_kernels/nn": {"ops", "nn", "recipes"},
    "green_kernels/recipes.py": set(),
    "green_kernels/energy": {"energy"},
    "green_kernels/carbon.py": set(),
    "green_kernels/survey.py": {"ops", "nn", "recipes", "build"},
    "green_kernels/convert.py": {"nn", "recipes", "report", "survey"},
    "triton_kernels": set(),
}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_arrows_never_turn_back(part):
    files = [ROOT / part] if part.endswith(".py") else (ROOT / part).glob("*.py")
    imported = re.findall(
        r"^ *(?:from|import) green_kernels(?:\.(\w+)| import (\w+))",
        "\n".join(file.read_text() for file in files),
        re.MULTILINE,
    )
    parts = {one or other for one, other in imported}
    assert parts <= MAY_IMPORT[part]


def test_kernels_see_no_torch():
    """So that they compile in a second, and their launchers run without it."""
    sources = [*(ROOT / "csrc/cuda").glob("*.cu*"), ROOT / "csrc/types.h", ROOT / "csrc/epilogue.h"]
    for path in sources:
        assert "<torch" not in path.read_text(), path


@pytest.mark.parametrize("layer", [name for name in gk.nn.__all__])
def test_layer_is_named_after_its_op(layer):
    stem = getattr(gk.nn, layer).__module__.split(".")[-1]
    assert stem in gk.ops.OPS and (ROOT / f"green_kernels/nn/{stem}.py").exists()


@pytest.mark.parametrize("op", gk.ops.OPS)
def test_compiled_kernel_is_registered(op):
    """Without this, a kernel missing from the build would pass every test: the body stands in."""
    cuda = ["cuda"] if gk.build_info()["cuda"] else []
    assert gk.build_info()["kernels"][op] == ["cpu", *cuda]


def arguments_of(op, packed):
    x, w = torch.randn(4, 32), torch.randn(8, 32)
    if op == "quantize_rows":
        return (x,), {}
    w_q, w_scale = gk.ops.quantize_rows(w)
    left = gk.ops.quantize_rows(x) if op == "int8_matmul" else (x,)
    pack = gk.ops.pad_weight if op == "int8_weight_linear" else gk.ops.pack_weight
    return (*left, w_q, w_scale), {"w_packed": pack(w_q) if packed else None}


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "as it is"])
@pytest.mark.parametrize("op", gk.ops.OPS)
def test_compiled_kernel_is_what_runs(op, packed, monkeypatch):
    """An opaque weight has a dispatch key of its own, under which a kernel can be missing."""
    args, kwargs = arguments_of(op, packed)

    def body(*args, **kwargs):
        raise AssertionError("the body ran, not the kernel")

    monkeypatch.setattr(gk.ops.OPS[op], "reference", body)
    assert gk.ops.OPS[op](*args, **kwargs) is not None
    with torch.inference_mode():
        assert gk.ops.OPS[op](*args, **kwargs) is not None


@pytest.mark.parametrize("op", gk.ops.OPS)
def test_triton_kernel_is_what_runs(op, monkeypatch):
    from importlib import import_module

    module = import_module(f"green_kernels.triton_kernels.{op}")
    ran = []
    kernel = getattr(module, op)
    monkeypatch.setattr(module, op, lambda *a, **k: ran.append(op) or kernel(*a, **k))
    args, kwargs = arguments_of(op, packed=False)
    with gk.ops.use("triton"):
        gk.ops.OPS[op](*args, **kwargs)
    assert ran == [op]


def python(code, cwd):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_kernel_folder_does_not_pass_for_openai_package():
    done = python("import triton_kernels", ROOT)
    assert "import green_kernels.triton_kernels" in done.stderr


def test_importing_leaves_triton_alone(tmp_path):
    """A machine without a GPU needs no Triton, and importing it takes time."""
    code = "import green_kernels, sys; print('triton' in sys.modules)"
    assert python(code, tmp_path).stdout.strip() == "False"


def test_wrong_backend_in_the_environment_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GREEN_KERNELS_BACKEND", "cuda")
    done = python("import green_kernels", tmp_path)
    assert "GREEN_KERNELS_BACKEND must be one of compiled, triton, got 'cuda'" in done.stderr


def test_triton_on_a_cpu_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("GREEN_KERNELS_BACKEND", "triton")
    code = "import torch, green_kernels as gk; gk.ops.quantize_rows(torch.ones(1, 2))"
    assert "x must be on a CUDA device for the triton backend" in python(code, tmp_path).stderr
