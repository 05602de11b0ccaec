"""All that needs a GPU, in stages: equality, the emulator, the sanitizer, times, joules, tuning.

    make gpu                                   # builds first; make gpu-check: of what is installed
    make gpu STAGES="equality-* plans joules-*"  # some of them
    python tests/gpu.py --list

A stage has a limit of its own, ten minutes at the most, and runs though one before it failed, if
that was not the first, which looks for the GPU. What they find goes to --out, and how they ended to
stages.json there. A stage whose program is not here is not run, and says so. The exit status is 1
if any failed.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600  # seconds, of any stage
GRACE = 10  # seconds to end in when asked to, before it is killed
PYTEST = ("{python}", "-m", "pytest", "-q", "-p", "no:cacheprovider")
PYTEST += ("-o", "addopts=--import-mode=importlib")
BENCH = ("{python}", "-m", "bench")


@dataclass(frozen=True)
class Stage:
    """A command with its limit; {python} and {out} in it are this Python and the folder."""

    name: str
    command: tuple[str, ...]
    seconds: int = LIMIT
    needs: str | None = None  # a program besides Python
    environment: dict[str, str] = field(default_factory=dict)

    def arguments(self, out: Path) -> list[str]:
        """Return the command line, to be run at the root."""
        known = {"{python}": sys.executable, "{out}": str(out)}
        head = [] if self.needs is None else [program(self.needs) or self.needs]
        for word in self.command:
            for name, value in known.items():
                word = word.replace(name, value)
            head.append(word)
        return head


def program(name: str) -> str | None:
    """Return the path of a program, of the CUDA toolkit's if it is not on the PATH."""
    cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which(name) or shutil.which(name, path=f"{cuda}/bin")


def tests(name: str, paths: Iterable[str], *options: str) -> Stage:
    """Tests of these files, with pytest's options."""
    files = [f"tests/test_{path}.py" for path in paths]
    return Stage(name, (*PYTEST, f"--junitxml={{out}}/{name}.xml", *options, *files))


def sanitizer(tool: str) -> Stage:
    """Every CUDA kernel and plan under a tool of compute-sanitizer, at sizes of a few blocks."""
    few = "small_products or (test_value and compiled and not emulated)"
    files = ("plans_gpu", "int8_weight_linear_kernels", "quantize_rows")
    return Stage(
        tool,
        ("--tool", tool, "--error-exitcode", "1", *PYTEST, "-k", few)
        + tuple(f"tests/test_{file}.py" for file in files),
        needs="compute-sanitizer",
        # Each tensor its own allocation, past whose end nothing may be read.
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    )


def bench(name: str, file: str, case: str, shape: str, ways: Iterable[str], *options: str) -> Stage:
    """A case at the shapes of a pattern, by some of its ways, into a file of records."""
    of_ways = [word for way in ways for word in ("--way", way)]
    where = ("--device", "cuda", "--budget", "9m", "--json", f"{{out}}/{file}.jsonl")
    return Stage(name, (*BENCH, "run", case, "--shape", shape, *where, *options, *of_ways))


OPS = ("quantize_rows", "int8_matmul", "int8_linear", "int8_weight_linear")
FLOAT = "torch bf16"
MATMUL = (FLOAT, "torch._int_mm bare", "torch._int_mm", "ours")
LINEAR = (FLOAT, "torch._int_mm", "bitsandbytes int8", "ours", "ours, as converted")
WEIGHTS = (FLOAT, "torchao int8", "ours", "ours triton")
TIMED = (("int8_matmul", MATMUL), ("int8_linear", LINEAR), ("int8_weight_linear", WEIGHTS))
# Over copies of the operands that exceed the cache, as a model does: of an H200's 50 MB, 33 MB of
# int8 weights would stay, and the 67 MB that they are in bfloat16 would not.
COLD = ("--full", "--no-joules")
MODELS = ("llama3-8b", "qwen2.5-7b", "smollm2-135m", "smollm2-360m", "smollm2-1.7b", "minilm")
LAYERS = {**{model: f"{model}-*" for model in MODELS}, "sizes": "*x8192x*-bf16"}
PREFILL = (
    "8192x8192x8192-bf16",
    *(f"llama3-8b-{i}-m8192" for i in ("qkv", "o", "gate_up", "down")),
)
FEW_ROWS = tuple(f"{m}x8192x4096-bf16" for m in (1, 16, 64))
TOKENS = ("1x8192x4096-bf16", "llama3-8b-gate_up-m1", "512x4096x4096-bf16")

STAGES = (
    Stage("build", ("{python}", "tests/gpu.py", "--facts"), 60),
    *(
        tests(f"equality-{name}", files, "-k", "not emulated")
        for name, files in {
            # Apart, since the tests of each compile many of Triton's kernels, one after the other.
            **{op: (op,) for op in OPS},
            "others": ("int8_matmul_tiles", "nn_int8_linear", "nn_int8_weight_linear")
            + ("measured_plans", "layout"),
        }.items()
    ),
    # In words, so that after a hang, the last line names the plan.
    tests("plans", ("plans_gpu", "int8_weight_linear_kernels"), "-m", "gpu", "-vv"),
    Stage(
        "conformance",
        ("{python}", "tests/emulator/conformance.py", "--json", "{out}/conformance/results.jsonl"),
    ),
    *(sanitizer(tool) for tool in ("memcheck", "racecheck", "synccheck")),
    Stage(
        "sensor",
        (*BENCH, "sensor", "--device", "cuda", "--coverage", "--refresh")
        + ("--json", "{out}/sensor.json"),
        120,
    ),
    *(
        bench(f"times-{case}-{name}", "times", case, shapes, ways, *COLD)
        for name, shapes in LAYERS.items()
        for case, ways in TIMED
    ),
    *(
        bench(f"peers-{case}", "peers", case, "llama3-8b-*-m2048", (), "--no-joules")
        for case, _ in TIMED
    ),
    *(
        bench(f"joules-int8_matmul-{shape}", "joules", "int8_matmul", shape, ways, "--full")
        for shapes, ways in ((PREFILL, (FLOAT, MATMUL[1], "ours")), (FEW_ROWS, (FLOAT, "ours")))
        for shape in shapes
    ),
    *(
        bench(f"joules-{case}-{shape}", "joules", case, shape, (FLOAT, *ours), "--full")
        for case, ours in (
            ("int8_linear", ("ours", "ours triton")),
            ("int8_weight_linear", ("ours",)),
        )
        for shape in TOKENS
    ),
    *(
        Stage(
            f"tune-{kernels}",
            (*BENCH, "tune", "int8_linear", "--kernels", kernels, "--budget", "9m")
            + ("--shape", "4096x8192", "--rows", "1:64", "--table", f"{{out}}/{table}.json"),
        )
        for kernels, table in (("compiled", "plans"), ("triton", "tiles"))
    ),
    Stage(
        "everything",
        (*BENCH, "run", "--device", "cuda", "--budget", "9m", "--json", "{out}/bench.jsonl"),
    ),
    Stage("tables", (*BENCH, "report", "--tables", "{out}"), 60),
)


@dataclass(frozen=True)
class Outcome:
    """How a stage ended."""

    stage: str
    status: str  # "passed", "failed", "timed out" or "not run"
    seconds: float
    reason: str | None = None


def run(stage: Stage, out: Path) -> Outcome:
    """Run a stage to its end or its limit; what it started ends with it."""
    if stage.needs is not None and program(stage.needs) is None:
        return Outcome(stage.name, "not run", 0.0, f"there is no {stage.needs} here")
    start = time.monotonic()
    environment = os.environ | stage.environment
    process = subprocess.Popen(
        stage.arguments(out), cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        status = process.wait(stage.seconds)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        end(process)
    seconds = round(time.monotonic() - start, 1)
    if status is None:
        return Outcome(stage.name, "timed out", seconds, f"took more than {stage.seconds} s")
    if status:
        return Outcome(stage.name, "failed", seconds, f"exit status {status}")
    return Outcome(stage.name, "passed", seconds)


def end(process: subprocess.Popen) -> None:
    """End a process and its children: first in words, so that clocks and power are put back."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def run_all(stages: Iterable[Stage], out: Path) -> int:
    """Run stages in turn and say how each ended; 1 if one failed or timed out, else 0.

    The first ends it where it fails: without a GPU, tests that need it are skipped, which pytest
    counts as passed.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "conformance").mkdir(exist_ok=True)
    outcomes = []
    for stage in stages:
        print(f"\n== {stage.name}: {' '.join(stage.arguments(out))}", flush=True)
        outcomes.append(run(stage, out))
        lines = [json.dumps(vars(outcome)) for outcome in outcomes]
        (out / "stages.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
        if stage == STAGES[0] and outcomes[0].status != "passed":
            break
    print()
    for outcome in outcomes:
        reason = f" ({outcome.reason})" if outcome.reason else ""
        print(f"{outcome.stage}: {outcome.status}{reason}, {outcome.seconds:.0f} s")
    return int(any(outcome.status in ("failed", "timed out") for outcome in outcomes))


def chosen(patterns: list[str], parser: argparse.ArgumentParser) -> list[Stage]:
    """Return the stages that patterns name, in their own order; all where there are none.

    The first is always one: it ends the run where there is no GPU.
    """
    for pattern in patterns:
        if not any(fnmatch(stage.name, pattern) for stage in STAGES):
            names = ", ".join(stage.name for stage in STAGES)
            parser.error(f"unknown stage {pattern!r}; stages are {names}")
    patterns = [STAGES[0].name, *patterns] if patterns else ["*"]
    return [stage for stage in STAGES if any(fnmatch(stage.name, p) for p in patterns)]


def facts() -> int:
    """Print what is installed and the GPU that it finds; 1 if a kernel or the GPU is missing."""
    import torch

    import green_kernels as gk

    info = gk.build_info()
    lacking = [op for op, devices in info["kernels"].items() if "cuda" not in devices]
    found = torch.cuda.is_available()
    gpu = torch.cuda.get_device_name() if found else "torch finds no CUDA device"
    print(json.dumps(info | {"torch": torch.__version__, "gpu": gpu}, indent=1))
    if lacking:
        print(f"built without CUDA kernels of {', '.join(lacking)}")
    return int(bool(lacking) or not found)


def main(arguments: list[str] | None = None) -> int:
    """Run the stages that the command line names."""
    parser = argparse.ArgumentParser(description="All that needs a GPU, in stages.")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="* stands for any; else all")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="a folder")
    parser.add_argument("--list", action="store_true", help="print the stages, run none")
    parser.add_argument("--facts", action="store_true", help="print what is installed, run none")
    options = parser.parse_args(arguments)
    if options.facts:
        return facts()
    stages, out = chosen(options.stages, parser), options.out.resolve()
    if options.list:
        for stage in stages:
            print(f"{stage.name}\t{stage.seconds} s\t{' '.join(stage.arguments(out))}")
        return 0
    return run_all(stages, out)


if __name__ == "__main__":
    sys.exit(main())
