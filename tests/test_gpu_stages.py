"""The stages of `make gpu`: what they name is there, and each runs to its end or its limit."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import gpu
import pytest
import torch
from emulator import conformance

from green_kernels._C import schedule
from green_kernels.bench import case, options
from green_kernels.bench.cases.int8_linear import int8_linear
from green_kernels.bench.cases.int8_matmul import int8_matmul
from green_kernels.bench.cases.int8_weight_linear import int8_weight_linear
from green_kernels.bench.shapes import SERVED
from green_kernels.ops import PLANS

OUT = Path("/out")
BY_NAME = {stage.name: stage for stage in gpu.STAGES}
CASES = {
    "int8_linear": int8_linear,
    "int8_matmul": int8_matmul,
    "int8_weight_linear": int8_weight_linear,
}


def of_kind(*head):
    """Stages whose command holds these words in a row, and what comes after them."""
    found = {}
    for name, stage in BY_NAME.items():
        words = stage.arguments(OUT)
        for i in range(len(words)):
            if tuple(words[i : i + len(head)]) == head:
                found[name] = words[i + len(head) :]
    return found


TESTS, BENCH = of_kind("-m", "pytest"), of_kind("-m", "bench")
PROGRAMS = {"build", "conformance"}


def test_every_stage_is_of_a_kind_that_is_looked_into_here():
    assert len(BY_NAME) == len(gpu.STAGES)
    assert TESTS.keys() | BENCH.keys() | PROGRAMS == BY_NAME.keys()
    assert all(0 < stage.seconds <= 600 for stage in gpu.STAGES)
    assert "{" not in " ".join(word for stage in gpu.STAGES for word in stage.arguments(OUT))


def test_equality_comes_before_figures():
    kinds = ["bench" if name in BENCH else "tests" for name in BY_NAME if name != "sensor"]
    assert kinds == sorted(kinds, reverse=True)


@pytest.mark.parametrize("name", TESTS)
def test_files_of_tests_are_there(name):
    files = [gpu.ROOT / word for word in TESTS[name] if word.startswith("tests/")]
    assert files and all("\ndef test_" in file.read_text() for file in files)


def test_the_sanitizers_few_are_of_every_file():
    words = TESTS["memcheck"]
    command = [sys.executable, "-m", "pytest", *words, "--collect-only"]
    done = subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for plan in PLANS:
        assert f"tests/test_plans_gpu.py::test_small_products[{plan}]" in done.stdout
    assert re.search(r"^tests/test_quantize_rows.py::test_value\[compiled-", done.stdout, re.M)
    of_weights = "tests/test_int8_weight_linear_kernels.py::test_small_products_on_a_gpu["
    assert done.stdout.count(of_weights) == 3 + 2 * len(schedule.WEIGHT_TILES)
    assert TESTS["racecheck"] == TESTS["synccheck"] == words


@pytest.fixture(scope="module")
def entries():
    return case.load_cases()


@pytest.mark.parametrize("name", BENCH)
def test_the_bench_takes_the_options_and_leaves_time_to_end(name, entries, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    words = [word.replace(str(OUT), str(tmp_path)) for word in BENCH[name]]
    parsed = options.parse(entries, words)  # ends the program where it does not know one
    if parsed.command == "run":
        assert parsed.device == "cuda" and parsed.chosen
    if parsed.command in ("run", "tune"):
        assert 30 <= BY_NAME[name].seconds - parsed.budget


@pytest.mark.parametrize("case", CASES)
def test_all_shapes_are_timed_by_the_full_protocol(case, entries, monkeypatch):
    """Which has copies of the operands that exceed the cache."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    timed = set()
    for words in BENCH.values():
        if words[:2] == ["run", case] and "--full" in words:
            at = words.index("--json")
            parsed = options.parse(entries, words[:at] + words[at + 2 :])
            timed |= {shape for _, shape in parsed.chosen}
    assert timed >= SERVED.keys()


@pytest.mark.parametrize("case", CASES)
def test_the_ways_are_those_of_the_case(case):
    ways = CASES[case](1, 16, 8, torch.bfloat16, "cpu").ways
    stages = {name: words for name, words in BENCH.items() if words[1] == case}
    for name, words in stages.items():
        named = {words[i + 1] for i, word in enumerate(words) if word == "--way"}
        assert named <= ways.keys(), name
    assert len(stages) > 5


def test_conformance_knows_its_options(monkeypatch, tmp_path, capsys):
    *_, option, file = BY_NAME["conformance"].arguments(tmp_path)

    class NoDriver:
        def __getattr__(self, name):
            raise OSError("no driver")

    assert conformance.main([option, file], NoDriver()) == 2
    assert "no GPU to compare with" in capsys.readouterr().err


def python(name, code, seconds=20, **more):
    return gpu.Stage(name, ("{python}", "-c", code), seconds, **more)


def test_a_stage_runs_though_one_before_it_failed(tmp_path, capfd):
    environment = {"PROBE": "probed"}
    stages = [
        python("fails", "raise SystemExit(3)"),
        python("lacks", "", needs="no-such-program"),
        python("runs", "import os; print(os.environ['PROBE'])", environment=environment),
    ]
    assert gpu.run_all(stages, tmp_path / "out") == 1
    lines = capfd.readouterr().out
    assert "probed" in lines and "fails: failed (exit status 3)" in lines
    outcomes = json.loads((tmp_path / "out" / "stages.json").read_text())
    assert [(o["stage"], o["status"], o["reason"]) for o in outcomes] == [
        ("fails", "failed", "exit status 3"),
        ("lacks", "not run", "there is no no-such-program here"),
        ("runs", "passed", None),
    ]
    assert gpu.run_all(stages[1:], tmp_path / "out") == 0


def test_a_stage_ends_at_its_limit_and_its_children_with_it(tmp_path):
    child = "import time; time.sleep(60)"
    code = (
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); child.wait()"
    )
    assert gpu.run_all([python("slow", code, seconds=2)], tmp_path) == 1
    [outcome] = json.loads((tmp_path / "stages.json").read_text())
    assert (outcome["status"], outcome["reason"]) == ("timed out", "took more than 2 s")
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):  # until whoever inherits it has seen it end
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        os.kill(pid, 9)
        raise AssertionError("the child outlived its stage")


def test_stages_are_chosen_by_pattern_and_unknown_ones_are_refused(capsys):
    assert gpu.main(["--list", "*check", "plans"]) == 0
    names = [line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["build", "plans", "memcheck", "racecheck", "synccheck"]
    assert gpu.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(gpu.STAGES)
    with pytest.raises(SystemExit):
        gpu.main(["--list", "joules"])
    assert "unknown stage 'joules'; stages are build, equality-" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_first_stage_fails(capsys):
    assert gpu.facts() == 1
    assert "torch finds no CUDA device" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_runs_after_the_first_stage(tmp_path):
    assert gpu.run_all([gpu.STAGES[0], python("runs", "")], tmp_path) == 1
    outcomes = json.loads((tmp_path / "stages.json").read_text())
    assert [(o["stage"], o["status"]) for o in outcomes] == [("build", "failed")]


def test_make_hands_the_stages_on(tmp_path):
    words = ["make", "--no-print-directory", "-n", "gpu-check", "VENV=", f"OUT={tmp_path}"]
    words.append("STAGES=plans joules-*")
    done = subprocess.run(words, cwd=gpu.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == [
        "tests/gpu.py", "--out", f'"{tmp_path}"', "'plans'", "'joules-*'",
    ]  # fmt: skip
