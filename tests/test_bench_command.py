"""bench: the command line, as a person or a pipe uses it."""

import json
import subprocess
import sys
from pathlib import Path

import bench_records
import pytest
import torch

from green_kernels.bench import command, options, record
from green_kernels.bench.case import Case, Entry
from green_kernels.bench.session import run as run_session

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "int9_linear"], "unknown case 'int9_linear'; cases are "),
        (["run", "reprot"], "the commands are run, list, report, compare, check, sensor"),
        (["run", "int8_linear", "--shape", "huge"], "unknown shape 'huge'; shapes are 1x4096x4096"),
        (["--way", "theirs"], "--way: invalid choice: 'theirs'"),
        (["--dtype", "fp8"], "--dtype: invalid choice: 'fp8'"),
        (["--data", "ones"], "--data: invalid choice: 'ones'"),
        (["--seconds", "0"], "--seconds: must be a positive number, got '0'"),
        (["--seconds", "x"], "--seconds: must be a positive number, got 'x'"),
        (["--rounds", "1.5"], "--rounds: must be a positive integer, got '1.5'"),
        (["--threads", "0"], "--threads: must be a positive integer, got '0'"),
        (["--seed", "-1"], "--seed: must be an integer from 0 to 10^18 - 1, got '-1'"),
        (["--budget", "soon"], "--budget: must be a time such as 90s, 8m or 1h, got 'soon'"),
        (["--budget", "0m"], "--budget: must be a time such as 90s, 8m or 1h, got '0m'"),
        (["--quick", "--full"], "--full: not allowed with argument --quick"),
        (["--assume-watts", "nan"], "--assume-watts: must be a positive number, got 'nan'"),
        (["--intensity", "-1"], "--intensity: must be a number of 0 or more, got '-1'"),
        (["--json", "/no/such/folder/x"], "--json: cannot write /no/such/folder/x"),
        (["--pue", "2"], "--pue: goes with --intensity or --country"),
        (["report", "x", "--markdown", "--intensity", "1"], "--markdown: has no gCO2e"),
        (["list", "--way", "ours"], "unrecognized arguments: --way"),
        (["sweep-clocks", "--dtype", "float32"], "unrecognized arguments: --dtype"),
        (["--seed", "9" * 30], "--seed: must be an integer from 0 to 10^18 - 1, got '999"),
        (["--threads", "100000"], "--threads: there are "),
        (["report", "/dev/null"], "/dev/null holds no records"),
        (["report"], "report takes files of records"),
        (["report", "/no/such/file"], "cannot read /no/such/file"),
        (["report", __file__], "test_bench_command.py:1: not JSON"),
        (["report", "x", "--seconds", "3"], "unrecognized arguments: --seconds 3"),
        (["compare", "/no/such/file", "b"], "cannot read /no/such/file"),
        (
            ["compare", "a", "b", "--threshold", "1"],
            "--threshold: must be at least 0 and less than 1",
        ),
        (["compare", "a"], "the following arguments are required: B"),
        (
            ["tune", "int8_matmul", "--shape", "64"],
            "--shape: must be NxK with K to 133144, got '64'",
        ),
        (
            ["tune", "int8_matmul", "--rows", "9:8"],
            "--rows: must be FIRST:LAST, as 1:8192, got '9:8'",
        ),
        (["tune", "int8_matmul"], "the following arguments are required: --shape, --table"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_names_the_argument(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, seconds", [("90", 90), ("90s", 90), ("8m", 480), ("1h", 3600), ("0.5m", 30)]
)
def test_a_budget_is_a_time(text, seconds):
    assert options.parse(entries(), ["run", "--budget", text]).budget == seconds


def test_a_quick_run_of_everything_has_a_budget_and_others_have_none():
    parsed = [options.parse(entries(), ["run", *more]) for more in ([], ["a_case"], ["--full"])]
    assert [p.budget for p in parsed] == [options.QUICK_BUDGET, None, None]
    assert options.QUICK_BUDGET < 180


def entries(base=None, ours=None):
    """Three shapes of one case: one runs by default, one where the case or it is named."""
    ways = {
        "torch fp32": lambda: base or (lambda: torch.ones(4)),
        "ours": lambda: ours or (lambda: torch.ones(4)),
    }

    def build(device):
        return Case(dtype="float32", flops=1000, bytes=500, tolerance=0.01, ways=ways)

    return {
        ("a_case", "small"): Entry(build, True),
        ("a_case", "large"): Entry(build, False),
        ("a_case", "model-m1"): Entry(build, False, by_shape=True),
    }


@pytest.fixture
def only(monkeypatch):
    """Make the command know one case, of these ways, and leave torch's threads alone."""
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)

    def know(**ways):
        monkeypatch.setattr(command, "load_cases", lambda: entries(**ways))

    know()
    return know


def test_selection_by_shape_with_a_pattern(only):
    def chosen(*arguments):
        return [shape for _, shape in options.parse(entries(), ["run", *arguments]).chosen]

    assert chosen() == ["small"]
    assert chosen("a_case") == ["small", "large"]
    assert chosen("--shape", "l*") == ["large"]
    assert chosen("--shape", "*") == ["small", "large", "model-m1"]
    assert chosen("a_case", "--shape", "model-*") == ["model-m1"]


def test_an_unknown_shape_is_answered_with_the_few(capsys):
    with pytest.raises(SystemExit):
        options.parse(entries(), ["run", "--shape", "huge"])
    assert "shapes are small, large (and more, see `list`)" in capsys.readouterr().err


def test_the_command_runs_prints_and_writes(only, tmp_path, capsys):
    file = tmp_path / "records.jsonl"
    arguments = ["run", "a_case", "--shape", "small", "--seconds", "0.01", "--rounds", "2"]
    assert command.main([*arguments, "--json", str(file), "--device", "cpu"]) == 0
    assert "a_case" in capsys.readouterr().out
    read = record.read(file)
    assert [r.way for r in read] == ["torch fp32", "ours"]
    assert len(read[0].times) == 2 and read[0].protocol == "quick"
    facts = read[0].machine
    assert facts["torch"] == torch.__version__
    assert {"cpu", "cores", "threads", "gpu", "driver", "triton", "build", "commit"} <= set(facts)


def test_joules_can_be_left_out(only, tmp_path):
    file = tmp_path / "records.jsonl"
    arguments = ["--no-joules", "--seconds", "0.01", "--rounds", "1", "--device", "cpu"]
    assert command.main([*arguments, "--json", str(file)]) == 0
    assert {(r.status, r.energy.reason) for r in record.read(file)} == {("timed", "--no-joules")}


def test_without_a_command_it_runs(only, capsys):
    assert command.main(["--seconds", "0.01", "--rounds", "1", "--device", "cpu"]) == 0
    assert "a_case small" in capsys.readouterr().out


def test_records_go_down_a_pipe_and_tables_beside_it(only, capsys):
    arguments = ["run", "--seconds", "0.01", "--rounds", "1", "--device", "cpu", "--json", "-"]
    assert command.main(arguments) == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["way"] for line in captured.out.splitlines()] == ["torch fp32", "ours"]
    assert "a_case small" in captured.err


def test_a_wrong_result_of_ours_fails_the_command(only, capsys):
    only(ours=lambda: torch.zeros(4))
    assert command.main(["--seconds", "0.01", "--rounds", "1", "--device", "cpu"]) == 1
    assert "refused" in capsys.readouterr().out


def test_list_names_cases_shapes_and_what_runs_by_default(only, capsys):
    assert command.main(["list"]) == 0
    assert capsys.readouterr().out == (
        "a_case\tsmall\na_case\tlarge\tnot by default\na_case\tmodel-m1\tonly by --shape\n"
    )


@pytest.fixture
def results(tmp_path):
    """A folder of two files of records."""
    folder = tmp_path / "results"
    folder.mkdir()
    ways = ("torch fp32", "ours")
    record.write([bench_records.make(way=way) for way in ways], folder / "a.jsonl")
    record.write([bench_records.make(way=way, shape="b") for way in ways], folder / "b.jsonl")
    return folder


def test_report_reads_files_and_folders(results, capsys):
    assert command.main(["report", "--tables", str(results)]) == 0
    folder = capsys.readouterr().out
    assert "16x64x64" in folder and "int8_linear b" in folder
    assert command.main(["report", "--tables", str(results / "a.jsonl")]) == 0
    assert "int8_linear b" not in capsys.readouterr().out


def test_report_adds_carbon_where_the_grid_is_named(tmp_path, capsys):
    """0.9 J at 400 g/kWh and PUE 2 are 0.9 / 3.6e6 x 400 x 2 g, a thousand times."""
    joules = bench_records.measured(bench_records.windows([0.9] * 10))
    r = bench_records.make(kind="model", device="cuda", energy=joules, protocol="full")
    record.write([r], tmp_path / "a.jsonl")
    arguments = ["report", "--tables", str(tmp_path), "--intensity", "400", "--pue", "2"]
    assert command.main(arguments) == 0
    out = capsys.readouterr().out
    assert "gCO2e/1k inferences" in out and "0.200" in out


def test_compare_is_one_where_something_got_worse(results, tmp_path, capsys):
    slow = tmp_path / "slow.jsonl"
    record.write(
        [bench_records.make(times=(2e-3,) * 5, way=w) for w in ("torch fp32", "ours")], slow
    )
    assert command.main(["compare", str(results / "a.jsonl"), str(results / "a.jsonl")]) == 0
    assert command.main(["compare", str(results / "a.jsonl"), str(slow)]) == 1
    assert "WORSE" in capsys.readouterr().out


def test_check_rejects_what_is_no_folder_of_results(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text("{}\n")
    assert command.main(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "x.jsonl" in out and "rejected" in out


def test_a_session_ends_when_its_budget_does_and_records_what_was_left_out():
    class Runner:
        """Takes the time that a case was given, or 10 s where it was given none."""

        def __init__(self):
            self.device, self.now, self.deadlines = self, 0.0, []

        def clock(self):
            return self.now

        def run(self, name, shape, build, deadline):
            self.deadlines.append(deadline)
            self.now = deadline + 5 if name == "slow" else self.now + 1
            return [name]

    from rich.console import Console

    names = ("quick", "slow", "model", "last")
    chosen = {(n, ""): Entry(None, True, 2.0 if n == "model" else 1.0) for n in names}
    runner = Runner()
    done = list(run_session(runner, chosen, 100.0, Console(quiet=True)))
    assert done == [["model"], ["quick"], ["slow"], ["last"]]  # the heaviest first
    # 100 s x 2/5; 99 s x 1/4 from 1 s on; 98 s x 1/2 ... and what is left for the last.
    assert runner.deadlines == pytest.approx([40.0, 1 + 99 / 3, 2 + 98 / 2, 100.0])


def test_help_works_from_the_root():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage: python -m bench" in done.stdout


@pytest.mark.parametrize("name", options.COMMANDS)
def test_each_command_has_its_help(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: python -m bench {name}" in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_is_no_error():
    line = f"set -o pipefail; {sys.executable} -m bench list | head -1"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout and "Traceback" not in done.stderr


def test_ctrl_c_ends_without_a_traceback_and_keeps_what_was_done(only, tmp_path, capsys):
    def interrupted():
        raise KeyboardInterrupt

    file = tmp_path / "records.jsonl"
    assert (
        command.main(["a_case", "--json", str(file)][1:] + ["--device", "cpu", "--rounds", "1"])
        == 0
    )
    only(ours=interrupted)
    assert command.main(["--json", str(file), "--device", "cpu", "--rounds", "1"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(record.read(file)) == 2


def test_a_page_that_cannot_be_written_is_an_error_in_words(results, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        command.main(["report", str(results), "--out", str(tmp_path / "file" / "x")])
    assert stopped.value.code == 2
    assert "Not a directory" in capsys.readouterr().err


def test_update_says_what_it_did_and_refuses_what_has_no_markers(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("no markers here\n")
    with pytest.raises(SystemExit):
        command.main(["report", "--update", str(readme)])
    assert "README.md" in capsys.readouterr().err
