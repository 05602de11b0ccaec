"""What was built says truly what it is."""

import platform
from importlib.metadata import files, version

import pytest

import green_kernels as gk


def test_build_info():
    info = gk.build_info()
    assert info["version"] == gk.__version__ == version("green_kernels")
    assert info["compiler"].split()[0] in ("gcc", "clang")
    assert bool(info["cuda"]) == bool(info["cuda_architectures"])
    assert set(info["kernels"]) == set(gk.ops.OPS)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86 features")
def test_cpu_features_are_those_the_kernel_sees():
    with open("/proc/cpuinfo") as lines:
        flags = next(line for line in lines if line.startswith("flags")).split()
    known = {"avx2": "avx2", "avx512f": "avx512f", "avx512vnni": "avx512_vnni"}
    known["avx512bf16"] = "avx512_bf16"  # by which int8_weight_linear multiplies
    seen = gk.build_info()["cpu_features"]
    assert {name for name in known if name in seen} == {
        name for name, flag in known.items() if flag in flags
    }


def test_one_top_level_name():
    tops = {path.parts[0] for path in files("green_kernels") if path.suffix in (".py", ".so")}
    assert tops <= {"green_kernels", "__editable___green_kernels_0_1_0_finder.py"}
