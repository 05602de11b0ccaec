"""bench check: results that are right are accepted, and each thing that may be wrong is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench_records import GPU, MACHINE, make, measured, on_gpu, unavailable, windows

from green_kernels.bench import record
from green_kernels.bench.check import check
from green_kernels.bench.figures import Interval

RESULTS = Path(__file__).parent.parent / "bench/results"
JOULES = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0, 1.0]
SENSOR = {"uuid": GPU["gpu_uuid"], "driver": "600.1", "agrees": True}


@pytest.fixture
def folder(tmp_path):
    """Check a folder of these records, with a sensor's record that is right unless given."""

    def of(*records, sensor=SENSOR):
        record.write(records, tmp_path / "bench.jsonl")
        if sensor is not None:
            text = sensor if isinstance(sensor, str) else json.dumps(sensor)
            (tmp_path / "sensor.json").write_text(text)
        return [str(problem) for problem in check(tmp_path)]

    return of


@pytest.mark.parametrize("path", sorted(p for p in RESULTS.iterdir() if p.is_dir()), ids=str)
def test_the_results_of_this_repository_are_accepted(path):
    assert check(path) == []


def test_right_results_are_accepted(folder):
    refused = make((), status="refused", reason="off by 0.3", error=0.3, way="ours", machine=GPU)
    assert folder(on_gpu(JOULES), on_gpu(JOULES, way="torch bf16"), refused) == []


def test_results_without_joules_need_no_windows_and_no_sensor(folder):
    assert folder(make(), make(way="ours"), sensor=None) == []


def test_a_folder_that_is_not_there_or_empty(tmp_path):
    assert "there is no such folder" in str(check(tmp_path / "none")[0])
    assert "there are no records" in str(check(tmp_path)[0])
    (tmp_path / "bench.jsonl").touch()
    assert "there is no record in it" in str(check(tmp_path)[0])


def test_a_line_that_is_no_record_is_named(folder, tmp_path):
    (tmp_path / "bench.jsonl").write_text(make().json() + "\n" + '{"format": 1}\n')
    (problem,) = check(tmp_path)
    assert (problem.file.name, problem.line) == ("bench.jsonl", 2)
    assert "format must be 2, got 1" in problem.what


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "bench.jsonl").write_bytes(b"\xff\xfe")
    assert "cannot be read" in str(check(tmp_path)[0])


@pytest.mark.parametrize(
    "commit, words",
    [(None, "commit is not known"), ("0123456-dirty", "0123456-dirty: the checkout was changed")],
)
def test_a_commit_is_known_and_clean(folder, commit, words):
    (problem,) = folder(make(machine=MACHINE | {"commit": commit}), sensor=None)
    assert words in problem and "bench.jsonl:1: int8_linear 16x64x64, torch fp32" in problem


@pytest.mark.parametrize(
    "change, words",
    [
        ({"error": 0.05}, "its error 0.05 is above its tolerance 0.04"),
        ({"tolerance": None}, "has no tolerance"),
    ],
)
def test_what_is_timed_is_right(folder, change, words):
    (problem,) = folder(make(**change), sensor=None)
    assert words in problem


def test_one_machine_in_a_folder(folder):
    other = make(way="ours", machine=MACHINE | {"cpu": "Another CPU"})
    (problem,) = folder(make(), other, sensor=None)
    assert ":2:" in problem and 'another machine: cpu is "Another CPU"' in problem


def test_each_rank_has_a_gpu_of_its_own(folder):
    another = GPU | {"gpu_uuid": "GPU-another"}
    assert folder(make(machine=GPU), make(machine=another, rank=1), sensor=None) == []
    problems = folder(make(machine=another, way="ours"), sensor=None)
    assert len(problems) == 1 and 'gpu_uuid is "GPU-another"' in problems[0]


def test_a_way_stands_once_in_a_run(folder):
    later = make(date="2026-01-02T00:00:00+00:00")
    (problem,) = folder(make(), later, make(), sensor=None)
    assert ":3:" in problem and "stands twice in one run, first at bench.jsonl:1" in problem


@pytest.mark.parametrize(
    "change, words",
    [
        ({"seconds": 4.999}, "it has 4.999 s, less than 5 s"),
        ({"ticks": 49.99}, "it has 49.99 ticks of the counter, less than 50"),
        ({"busy": 0.98}, "the GPU was busy for 98.00% of it, less than 99%"),
        ({"busy": None}, "it does not say how busy"),
        ({"celsius": (60.0, 63.5)}, "the temperature changed by +3.5 C, more than 3 C"),
        ({"celsius": (63.5, 60.0)}, "the temperature changed by -3.5 C"),
        ({"celsius": ()}, "it does not say the temperature"),
        ({"throttled": {"thermal": 0.02}}, "thermal held the clocks for 2.0% of it"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_window_of_the_full_protocol_passes_its_gates(folder, change, words):
    spans = windows(JOULES)
    bad = windows(JOULES, **change)
    energy = measured((*spans[:9], bad[9]))
    (problem,) = folder(on_gpu(JOULES, energy=energy))
    assert f"window 10: {words}" in problem


def test_the_power_cap_is_legal(folder):
    held = windows(JOULES, throttled={"power cap": 0.9, "thermal": 0.0})
    assert folder(on_gpu(JOULES, energy=measured(held))) == []


def test_the_quick_protocol_needs_twenty_ticks(folder):
    def quick(ticks):
        energy = measured(windows(JOULES[:1], seconds=ticks / 10, ticks=ticks, busy=None))
        return on_gpu(JOULES, energy=energy, protocol="quick")

    assert folder(quick(20.0), sensor=None) == []
    problems = folder(replace(quick(19.9), way="ours"), sensor=None)
    assert len(problems) == 1 and "19.9 ticks of the counter, less than 20" in problems[0]


def test_a_fast_counter_makes_no_window_shorter_than_its_protocol(folder):
    short = measured(windows(JOULES[:1], seconds=0.05, ticks=50.0))
    (problem,) = folder(on_gpu(JOULES, energy=short, protocol="quick"), sensor=None)
    assert "window 1: it has 0.05 s, less than 0.1 s" in problem


def test_the_full_protocol_has_ten_windows(folder):
    (problem,) = folder(on_gpu(JOULES[:9]))
    assert "at least 10 windows, got 9" in problem


@pytest.mark.parametrize(
    "joules, words",
    [
        (lambda own: replace(own, value=own.value * (1 + 1e-8)), "the median of its windows 1"),
        (lambda own: replace(own, low=own.low * 0.9), "energy.joules.low is 0.89"),
        (lambda own: replace(own, high=own.high * 1.1), "energy.joules.high is 1.1"),
        (lambda own: Interval(own.value), "has no interval, and 10 windows give one"),
    ],
)
def test_joules_are_the_median_of_the_windows(folder, joules, words):
    energy = on_gpu(JOULES).energy
    problems = folder(on_gpu(JOULES, energy=replace(energy, joules=joules(energy.joules))))
    assert len(problems) == 1 and words in problems[0]


def test_joules_have_windows_to_stand_on(folder):
    energy = replace(on_gpu(JOULES).energy, windows=())
    problems = folder(on_gpu(JOULES, energy=energy))
    assert any("has no windows to stand on" in problem for problem in problems)


def test_one_window_gives_no_interval(folder):
    energy = measured(windows(JOULES[:1], busy=None))
    energy = replace(energy, joules=Interval(energy.joules.value, 0.9, 1.1))
    (problem,) = folder(on_gpu(JOULES, energy=energy, protocol="quick"), sensor=None)
    assert "has an interval, which 1 windows do not give" in problem


def test_where_a_gate_failed_there_is_no_figure(folder):
    failed = {"busy": "the device worked 90 % of the window"}
    (problem,) = folder(on_gpu(JOULES, energy=replace(on_gpu(JOULES).energy, failed=failed)))
    assert "energy.joules must be null: the gate busy failed" in problem
    energy = unavailable("busy: 90 %", failed=failed, windows=windows(JOULES, busy=0.9))
    assert folder(on_gpu(JOULES, way="ours", energy=energy))[1:] == []


@pytest.mark.parametrize(
    "sensor, words",
    [
        (None, "joules by NVML need a sensor*.json"),
        (SENSOR | {"agrees": False}, "the power sensor disagree: agrees is False"),
        (SENSOR | {"agrees": "yes"}, "agrees is 'yes'"),
        ({"uuid": GPU["gpu_uuid"]}, "agrees is None"),
        (SENSOR | {"uuid": "GPU-another"}, "it is of another GPU: its uuid is 'GPU-another'"),
        ("[]", "must be an object, got list"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
    ids=range(8),
)
def test_the_sensor_is_recorded_and_agrees(folder, sensor, words):
    (problem,) = folder(on_gpu(JOULES), sensor=sensor)
    assert words in problem
