"""Mutants: kernels with one mistake each, to see whether the emulator finds it.

A mutant is a copy of csrc/ with a piece of it replaced. All mutants of a .cu are compiled at once,
each in a namespace of its own, since nvcc takes longer to begin than it takes for any of them. The
object takes the place of the .cu's own in _kernels, and does as the mutant does that was chosen.
"""

import ctypes
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

import emulator
from green_kernels.ops import int8_linear, int8_matmul

from . import build
from .cuda_ops import CudaOps

VALUES, CONFLICTS = "values differ", "bank conflicts"
# Words of the emulator.
OUTSIDE = "outside all buffers|outside the block's"
OVERWRITES = "may still read|is to write|race: overwrites what"
READS_EARLY = "has yet to write|that nobody has written|race: reads what the store"
HANG = r"hang: nothing can go on[\s\S]*wait for phase of parity"
TOO_MANY = "arrives 1 times where the mbarrier awaits 0"
NO_MBARRIER = "there is no mbarrier|uses the mbarrier that PTX line .* initialises, with no barrier"
UNFENCED = "reads asynchronously .* with no fence.proxy.async"
GONE = "which has not synchronised with another block's access|of a block that has ended"
UNORDERED = "reads what the grid before it writes, with no griddepcontrol.wait"

TRIES = 12  # schedules, with their seeds; most mutants fall to the first
RIGHT_TRIES = 4  # of a kernel with no mistake, which other tests run under many


def same_values(op, args, outputs):
    """Whether they are the body's to the bit, NaN where it has NaN."""
    expected = op.reference(*args)
    both = ((outputs,), (expected,)) if isinstance(outputs, torch.Tensor) else (outputs, expected)
    return all(
        torch.equal(a.nan_to_num(), e.nan_to_num()) and torch.equal(a.isnan(), e.isnan())
        for a, e in zip(*both, strict=True)
    )


@dataclass(frozen=True)
class Subject:
    """A .cu of csrc/cuda whose mutants are made, and how they are run.

    architecture: for which alone they are compiled, and `device` runs it
    calls: yields (op, arguments), drawn anew each time
    plan: of every product; None for what the chooser takes
    slighter: {file: (regular expression, what stands there instead)}, which leaves the kernel right
        but makes it quick to compile and to run
    agrees: of op, its arguments and its outputs, whether these are right; to the bit if not said
    """

    source: str
    architecture: str
    device: emulator.Device
    calls: Callable[[], Iterable]
    plan: object = None
    slighter: dict[str, tuple[str, str]] = field(default_factory=dict)
    agrees: Callable[..., bool] = same_values


@dataclass(frozen=True)
class Mutant:
    """Pieces of a file of csrc/cuda with what stands there instead, and what must find that.

    by: words of the emulator's error, as a regular expression; or VALUES where nothing is illegal
        and only the result is wrong, or CONFLICTS where that is right and only shared memory slower
    """

    subject: Subject
    file: str
    pieces: dict[str, str]
    by: str


def matmul_call(M, N, K, least=-127):
    """A call of a subject: int8 values from `least` on, and a bias and a residual."""
    x_q = torch.randint(least, 128, (M, K), dtype=torch.int8)
    w_q = torch.randint(least, 128, (N, K), dtype=torch.int8)
    return int8_matmul, (x_q, torch.rand(M), w_q, torch.rand(N), torch.randn(N), torch.randn(M, N))


def linear_call(M, N, K):
    _, (_, _, *rest, residual) = matmul_call(M, N, K)
    return int8_linear, (torch.randn(M, K), *rest, "none", residual)


def tiles(table, rows):
    """Of `slighter`: a table of tiles with these rows alone."""
    return rf"{table}\[\] = {{.*?}};", f"{table}[] = {rows};"


UNIT = """{system}
#include "{csrc}/cuda/int8_weight_linear_kernels.h"
#include "{csrc}/cuda/quantize_rows.h"
{mutants}
namespace green_kernels {{
static int chosen = 0;
{launcher} {{
  static const decltype(&{name}) all[] = {{{all}}};
  return all[chosen]({arguments});
}}
}}
extern "C" __attribute__((visibility("default"))) void choose(int mutant) {{
  green_kernels::chosen = mutant;
}}
"""
MUTANT = """
namespace m{i} {{
#include "m{i}/cuda/{source}"
namespace green_kernels {{  // what int8_matmul.cu has for it, of which there are no mutants
cudaError_t allow_shared_memory(const void* kernel, int bytes) {{
  return ::green_kernels::allow_shared_memory(kernel, bytes);
}}
}}
}}
"""


def replace_in(path, old, new):
    text, count = re.subn(old, lambda match: new, path.read_text(), flags=re.DOTALL)
    assert count == 1, f"{path.name} has not one {old!r}"
    path.write_text(text)


def copy_csrc(to, subject, number, mutant):
    """What the subject's .cu is made of, with the mutant's mistake, if there is one."""
    shutil.copytree(build.CSRC, to, ignore=shutil.ignore_patterns("cpu", "*.cpp", "*.cu"))
    cuda = to / "cuda"
    shutil.copy(build.CSRC / "cuda" / subject.source, cuda)
    for name, (old, new) in subject.slighter.items():
        replace_in(cuda / name, old, new)
    for old, new in mutant.pieces.items() if mutant else ():
        replace_in(cuda / mutant.file, re.escape(old), new)
    for path in to.rglob("*.*"):  # #pragma once takes files with one text for one file
        path.write_text(f"{path.read_text()}// {number}\n")


def write_unit(folder, subject, mutants):
    """The .cu that has them all, and calls the one that was chosen."""
    for number, mutant in enumerate(mutants):
        copy_csrc(folder / f"m{number}", subject, number, mutant)
    texts = build.sources_of(folder / "m0" / "cuda" / subject.source)
    system = {line for text in texts for line in re.findall("^#include <.*>", text, re.MULTILINE)}
    # The launcher is all that a .cu does not keep to itself.
    source = (build.CSRC / "cuda" / subject.source).read_text()
    launcher = re.search(r"\n}  // namespace\n\n(.*?) {", source, re.DOTALL)[1]
    name = re.search(r"(\w+)\(", launcher)[1]
    numbers = range(len(mutants))
    unit = folder / subject.source
    unit.write_text(
        UNIT.format(
            system="\n".join(sorted(system)),
            csrc=build.CSRC,
            mutants="".join(MUTANT.format(i=i, source=subject.source) for i in numbers),
            launcher=launcher,
            name=name,
            all=", ".join(f"(decltype(&{name}))m{i}::green_kernels::{name}" for i in numbers),
            arguments=", ".join(re.findall(r"(\w+)[,)]", launcher)),
        )
    )
    return unit


def load(subject, mutants):
    """The module _kernels with the subject's mutants, and the function that chooses one."""
    with TemporaryDirectory() as folder:
        unit = write_unit(Path(folder), subject, mutants)
        made = build.compile_cu(unit, [subject.architecture])
    path = build.build_kernels("mutants", {subject.source: made}, emulator.runtime().__file__)
    return emulator.load("_kernels", path), ctypes.CDLL(str(path), emulator.LOADING).choose


def symptom(subject, module):
    """What is seen of a kernel in a run over the subject's calls, or None."""
    ops = CudaOps(subject.device, lambda: module, subject.plan)
    for op, args in subject.calls():
        try:
            outputs = getattr(ops, op.__name__)(*args)
        except RuntimeError as error:  # the emulator's, or what CUDA says of a launch
            return str(error)
        if not subject.agrees(op, args, outputs):
            return VALUES
        if any(entry["wavefronts"] > entry["least"] for entry in ops.traffic):
            return CONFLICTS
    return None


class Suite:
    """Mutants by name, those of one subject built when the first of them is asked for."""

    def __init__(self, mutants):
        self.mutants = mutants
        self.loaded = {}

    def choose(self, subject, mutant=None):
        """The module of a subject as the mutant makes it; without one, as it is right."""
        key = self.key(subject)
        if key not in self.loaded:
            alike = [m for m in self.mutants.values() if self.key(m.subject) == key]
            self.loaded[key] = [None, *alike], *load(subject, [None, *alike])
        numbered, module, choose = self.loaded[key]
        choose(numbered.index(mutant))
        return module

    @staticmethod
    def key(subject):
        return subject.source, subject.architecture, repr(subject.slighter)

    def check_is_caught(self, name):
        """What is seen of a mutant is what must find it."""
        mutant = self.mutants[name]
        module = self.choose(mutant.subject, mutant)
        for _ in range(TRIES):
            seen = symptom(mutant.subject, module)
            if seen:
                assert re.search(mutant.by, seen), seen
                return
        pytest.fail(f"not caught in {TRIES} tries")

    def check_is_right(self, subject):
        """There is nothing to be seen of the kernel with no mistake."""
        module = self.choose(subject)
        for _ in range(RIGHT_TRIES):
            seen = symptom(subject, module)
            assert seen is None, seen
