"""Builds the emulator, and the CUDA kernels against it, with g++ and nvcc and no setuptools.

Everything lies under build/emulator-<hash>/, where the hash is of the compilers and their flags.
A file's name there ends in a hash of all that it was made from, so that nothing is ever stale, what
exists is used again. A rename puts it into place whole, and while one process makes it, others that
need it wait.
"""

import ast
import fcntl
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
KERNELS_BINDING = HERE / "kernels_binding.cpp"
RUNTIME = ("binding", "cudart", "device", "fat_binary")  # the stand-in for CUDA's
CXX = shlex.split(os.environ.get("CXX", "")) or ["g++"]  # its words: "ccache g++"
# Floating-point instructions are emulated by the CPU's, in whatever rounding mode PTX asks for.
CXX_FLAGS = ["-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
CXX_FLAGS += ["-ffp-contract=off", "-frounding-math"]
SANITIZE_FLAGS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
SANITIZE_FLAGS += ["-fno-omit-frame-pointer", "-Og"]
# PTX in each object, as text, for each of these: the emulator reads the newest its device runs.
ARCHITECTURES = ("80", "90a")
NVCC_CODE = ["-lineinfo", "--no-compress", "-Xcompiler=-fPIC,-fvisibility=hidden"]
ANNOUNCED = threading.Lock()  # taken before the first compilation, for good


def find_toolkit():
    """The CUDA toolkit's folder, or None; it is sought where setup.py does."""
    folders = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if nvcc := shutil.which("nvcc"):
        folders.append(Path(nvcc).resolve().parent.parent)
    for folder in filter(None, folders):
        if Path(folder, "bin/nvcc").exists() and Path(folder, "include/cuda.h").exists():
            return Path(folder)
    return None


def missing():
    """Why nothing can be built here, or None."""
    if find_toolkit() is None:
        return "needs a CUDA toolkit, for nvcc and its headers"
    if shutil.which(CXX[0]) is None:
        return f"needs {CXX[0]}"
    return None


@cache  # once: two threads of Python 3.11 that call ast.parse may fail
def nvcc_flags():
    """NVCC_FLAGS of setup.py, which cannot be imported: it would build."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "NVCC_FLAGS":
            return ast.literal_eval(node.value)
    raise LookupError("setup.py has no NVCC_FLAGS")


def includes():
    folders = [find_toolkit() / "include", sysconfig.get_paths()["include"]]
    if importlib.util.find_spec("pybind11"):
        import pybind11

        folders.append(pybind11.get_include())
    else:
        import torch

        folders.append(Path(torch.__file__).parent / "include")
    return [f"-isystem{folder}" for folder in folders]


def run(*command):
    """Run a compiler; its words are the error's."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    sys.stderr.write(done.stderr)  # warnings
    return done.stdout


def digest(*parts):
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


@cache
def folder():
    nvcc = find_toolkit() / "bin/nvcc"
    versions = [run(*CXX, "--version"), run(nvcc, "--version")]
    flags = [*versions, *CXX, nvcc, *CXX_FLAGS, *nvcc_flags(), *NVCC_CODE, *includes()]
    path = ROOT / "build" / f"emulator-{digest(*flags)}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def sources_of(path):
    """The text of a file and of all that it includes between quotes, each once."""
    texts, left = {}, [path.resolve()]
    while left:
        file = left.pop()
        if file not in texts:
            texts[file] = file.read_text()
            left += [
                (file.parent / name).resolve()
                for name in re.findall(r'^\s*#include "(.+)"', texts[file], re.MULTILINE)
            ]
    return sorted(texts.values())


def make(name, parts, *command):
    """The file that `command` makes with "-o", which depends on its words and on `parts`."""
    target = folder() / f"{Path(name).stem}-{digest(*parts)}{Path(name).suffix}"
    if target.exists():
        return target
    with Path(f"{target}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():  # another process may have made it meanwhile
            if ANNOUNCED.acquire(blocking=False):
                text = f"building the emulator in {folder()} (a minute or two)"
                print(text, file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(dir=folder()) as temporary:
                made = Path(temporary, name)
                run(*command, "-o", made)
                made.rename(target)
        Path(lock.name).unlink(missing_ok=True)  # whoever waits for it finds the target
    return target


def compile_cpp(source, extra=()):
    command = [*CXX, *CXX_FLAGS, *extra, *includes(), "-c", source]
    return make(f"{source.stem}.o", [*extra, *sources_of(source)], *command)


def architectures_of(source, architectures):
    """Those of them that a .cu is for, as setup.py has it: *_sm90a.cu for that one alone."""
    return [arch for arch in architectures if arch == "90a" or not source.stem.endswith("_sm90a")]


def compile_cu(source, architectures=ARCHITECTURES):
    """An object of a .cu; that of the original where this copy of it is no different.

    Line numbers in it name the file, which should not be a mutant's temporary copy.
    """
    original = CSRC / "cuda" / source.name
    if original.exists() and sources_of(original) == sources_of(source):
        source = original
    architectures = architectures_of(source, architectures)
    codes = [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in architectures]
    command = [find_toolkit() / "bin/nvcc", *nvcc_flags(), *NVCC_CODE, *codes, "-c", source]
    return make(f"{source.stem}_cu.o", [*architectures, *sources_of(source)], *command)


def compile_ptx(source, architecture):
    """The PTX of a .cu, as a file."""
    command = [find_toolkit() / "bin/nvcc", *nvcc_flags(), "-lineinfo", "-ptx"]
    command += [f"-arch=compute_{architecture}", source]
    return make(f"{source.stem}.ptx", [architecture, *sources_of(source)], *command)


def in_parallel(function, items):
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count())) as pool:
        return list(pool.map(function, items))


def link(name, objects, extra=("-shared",)):
    # Its objects' names hold the hashes of what they were made from.
    return make(name, [*extra, *objects], *CXX, *extra, *objects)


def emulator_objects(but, extra):
    """All of the emulator's files but those of these names, and but what is no part of it."""
    paths = {path for path in HERE.glob("*.cpp") if path.stem not in but} - {KERNELS_BINDING}
    return in_parallel(lambda path: compile_cpp(path, extra), sorted(paths))


def build_emulator(sanitize=False):
    """The path of _emulator. A sanitized one loads where libasan was preloaded."""
    extra = SANITIZE_FLAGS if sanitize else []
    return link("_emulator.so", emulator_objects(["fuzz"], extra), ["-shared", *extra])


def build_fuzz():
    """The path of the program that mangles PTX, sanitized: a machine without a CUDA runtime."""
    return link("fuzz", emulator_objects(RUNTIME, SANITIZE_FLAGS), SANITIZE_FLAGS)


def build_kernels(csrc=CSRC, name="kernels", architectures=ARCHITECTURES, emulator=None, op=""):
    """The path of _kernels, made of the kernels in the folder `csrc`; `name` is for the file's.

    It needs the emulator's library, by its path, and finds CUDA's functions there. Files of other
    ops than `op` are those of CSRC, which need not be compiled again for a change in what they
    share.
    """
    sources = [
        Path(csrc if source.stem.startswith(op) else CSRC).resolve() / "cuda" / source.name
        for source in sorted(Path(csrc).glob("cuda/*.cu"))
    ]
    sources = [source for source in sources if architectures_of(source, architectures)]
    objects = in_parallel(lambda path: compile_cu(path, architectures), sources)
    return link(
        f"{name}.so", [compile_cpp(KERNELS_BINDING), *objects, emulator or build_emulator()]
    )


def build_library(sources, name, architectures=ARCHITECTURES, emulator=None):
    """The path of a library of other .cu files, made as _kernels is, for ctypes.

    What cannot be compiled for all ARCHITECTURES says for which it can.
    """
    objects = in_parallel(lambda path: compile_cu(path, architectures), map(Path, sources))
    return link(f"{name}.so", [*objects, emulator or build_emulator()])
