"""The whole build. Sources are found by glob, so a new kernel file needs no edit here.

Environment variables:
  GREEN_KERNELS_CUDA_ARCHS     architectures, as "80;90a"; the default is all below that nvcc knows
  GREEN_KERNELS_NO_CUDA=1      leave the CUDA kernels out, though nvcc is there
  GREEN_KERNELS_NO_EXTENSION=1 build nothing: the ops then run in Triton, or in plain torch
  GREEN_KERNELS_DEBUG=1        the C++ at -O0 -g, and line numbers in the CUDA kernels
  MAX_JOBS                     compilers at a time; the default is one for each core
  CUDA_HOME                    the CUDA toolkit, where it is not /usr/local/cuda
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

VERSION = "0.1.0"
CUDA_ARCHITECTURES = ["80", "86", "89", "90a", "100", "120"]  # and PTX of the first, for all others
NVCC_FLAGS = ["-O3", "-std=c++17", "-fmad=false"]  # no multiply-add is fused: the numerics contract
TORCH_TARGET = "0x020a000000000000"  # the stable ABI of torch 2.10: loads there and in later ones

# Top-level folders keep short names in the repository; installed, they live under green_kernels,
# because `triton_kernels` belongs to OpenAI's package and `bench` to everybody.
PACKAGE_DIR = {
    "green_kernels": "green_kernels",
    "green_kernels.triton_kernels": "triton_kernels",
    "green_kernels.bench": "bench",
}


def knob(name):
    """Whether the environment variable GREEN_KERNELS_`name` is on."""
    value = os.environ.get(f"GREEN_KERNELS_{name}", "0")
    if value not in ("", "0", "1"):
        sys.exit(f"GREEN_KERNELS_{name} must be 0 or 1, got {value!r}")
    return value == "1"


DEBUG = knob("DEBUG")


def packages():
    """Every folder with Python files, under its installed name."""
    for name, folder in PACKAGE_DIR.items():
        for init in Path(folder).rglob("__init__.py"):
            yield ".".join([name, *init.parent.relative_to(folder).parts])


def cuda_home():
    """The toolkit's folder, or None. An nvcc on PATH may be a wrapper, far from its headers."""
    if knob("NO_CUDA"):
        return None
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if found := shutil.which("nvcc"):
        places.append(Path(found).resolve().parent.parent)
    for place in filter(None, places):
        if Path(place, "bin/nvcc").exists() and Path(place, "include/cuda_runtime.h").exists():
            return Path(place)
    return None


def cuda_version(nvcc):
    """Such as "13.0"."""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release ([\d.]+)", text)[1]


def cuda_architectures(nvcc):
    """Those asked for, or else those of ours that this nvcc compiles for."""
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = {line.removeprefix("compute_") for line in listed.stdout.split()}
    asked = os.environ.get("GREEN_KERNELS_CUDA_ARCHS")
    if not asked:
        return [arch for arch in CUDA_ARCHITECTURES if arch.rstrip("a") in known]
    archs = [arch.replace(".", "").removesuffix("+PTX") for arch in re.split(r"[;, ]+", asked)]
    archs = ["90a" if arch == "90" else arch for arch in archs]  # whose kernels sm_90 alone lacks
    for arch in archs:
        if arch.rstrip("af") not in known:
            sys.exit(f"GREEN_KERNELS_CUDA_ARCHS: this nvcc has no {arch!r}, only {sorted(known)}")
        if int(arch.rstrip("af")) < 80:
            sys.exit(f"GREEN_KERNELS_CUDA_ARCHS: the kernels need 80 or newer, got {arch!r}")
    return archs


def jobs():
    """How many compilers to run at a time."""
    asked = os.environ.get("MAX_JOBS") or str(os.cpu_count())
    if not asked.isdigit() or int(asked) < 1:
        sys.exit(f"MAX_JOBS must be a positive integer, got {asked!r}")
    return int(asked)


def cuda_sources(archs):
    """[(a .cu file, the architectures it is compiled for)]: *_sm90a.cu for that one alone."""
    for source in sorted(Path("csrc/cuda").glob("*.cu")):
        only = (
            [arch for arch in archs if arch == "90a"] if source.stem.endswith("_sm90a") else archs
        )
        if only:
            yield source, only


def compile_cuda(nvcc, archs, folder):
    """Compile csrc/cuda/*.cu, which include no torch header; return the objects."""
    flags = [*NVCC_FLAGS, "-Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off"]
    flags += ["-g", "-lineinfo"] if DEBUG else []
    command = [str(nvcc), *flags]
    # Objects of another command are not this one's; and a .cpp has the same stem as its .cu.
    folder = folder / f"cuda-{zlib.crc32(' '.join([*command, *archs]).encode()):08x}"

    def compile_one(source, archs):
        target = folder / source.with_suffix(".o")
        newest = max(path.stat().st_mtime for path in [*Path("csrc").rglob("*.*h"), source])
        if target.exists() and target.stat().st_mtime > newest:
            return str(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        oldest = min(archs, key=lambda arch: int(arch.rstrip("af")))
        if oldest.isdigit():  # PTX of 90a runs on nothing but 90a
            codes.append(f"-gencode=arch=compute_{oldest},code=compute_{oldest}")
        subprocess.check_call([*command, *codes, "-c", source, "-o", target])
        return str(target)

    with ThreadPoolExecutor(jobs()) as pool:
        return list(pool.map(lambda job: compile_one(*job), cuda_sources(archs)))


def pybind11_include():
    """The folder of pybind11's headers, if it is installed; torch carries them too."""
    if importlib.util.find_spec("pybind11") is None:
        return []
    import pybind11

    return [pybind11.get_include()]


def extension():
    """green_kernels._C, and the command that builds it by its name."""
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    os.environ["MAX_JOBS"] = str(jobs())
    home = cuda_home()
    nvcc = home and home / "bin/nvcc"
    archs = cuda_architectures(nvcc) if home else []
    sources = [*Path("csrc").glob("*.cpp"), *Path("csrc/cpu").glob("*.cpp")]
    sources += Path("csrc/cuda").glob("*.cpp") if home else []

    class Build(BuildExtension):
        """Compiles CUDA by an nvcc step of our own, which a CPU-only torch does not forbid."""

        def build_extensions(self):
            if home:
                [extension] = self.extensions
                extension.extra_objects = compile_cuda(nvcc, archs, Path(self.build_temp))
                extension.library_dirs.append(str(home / "lib64"))
                extension.libraries += ["cudart_static", "dl", "pthread", "rt"]
            super().build_extensions()

    module = CppExtension(
        "green_kernels._C",
        sorted(map(str, sources)),
        include_dirs=pybind11_include(),
        define_macros=[
            ("TORCH_TARGET_VERSION", TORCH_TARGET),
            ("GREEN_KERNELS_VERSION", f'"{VERSION}"'),
            ("GREEN_KERNELS_HAS_CUDA", str(int(home is not None))),
            ("GREEN_KERNELS_CUDA_VERSION", f'"{cuda_version(nvcc) if home else ""}"'),
            ("GREEN_KERNELS_CUDA_ARCHITECTURES", f'"{";".join(archs)}"'),
            ("GREEN_KERNELS_DEBUG", str(int(DEBUG))),
        ],
        extra_compile_args=[
            *(["-O0", "-g"] if DEBUG else ["-O3", "-g0"]),
            "-std=c++17",
            "-fvisibility=hidden",
            "-ffp-contract=off",  # the numerics contract: no multiply-add is fused
            "-fno-math-errno",
        ],
        depends=sorted(map(str, Path("csrc").rglob("*.*"))),
    )
    return [module], {"build_ext": Build}


class Python(build_py):
    """Leaves out what pytest collects in bench/."""

    def find_package_modules(self, package, package_dir):
        """Return the modules of a package, but for those of tests."""
        modules = super().find_package_modules(package, package_dir)
        return [m for m in modules if not m[1].startswith(("test_", "conftest"))]


modules, commands = ([], {}) if knob("NO_EXTENSION") else extension()
setup(
    version=VERSION,
    packages=sorted(packages()),
    package_dir=PACKAGE_DIR,
    include_package_data=False,  # the records under bench/results/ stay in the repository
    package_data={"green_kernels.bench": ["*.j2"], "green_kernels.ops": ["*.json"]},
    ext_modules=modules,
    cmdclass={"build_py": Python, **commands},
)
