"""bench check: results that are right are accepted, and each thing that may be wrong is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench_records import FREE, GPU, MACHINE, make, measured, on_gpu, unavailable, windows

from green_kernels.bench import interval, record
from green_kernels.bench.check import check
from green_kernels.bench.figures import Interval

RESULTS = Path(__file__).parent.parent / "bench/results"
JOULES = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0, 1.0]
SENSOR = {"uuid": GPU["gpu_uuid"], "driver": "600.1", "agrees": True, "disagreement": 0.004}


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
        ({"celsius": (60.0,)}, "it does not say the temperature at its start and end"),
        ({"throttled": FREE | {"thermal": 0.02}}, "thermal held the clocks for 2.0% of it"),
        ({"throttled": {"power brake": 0.0, "thermal (software)": 0.0}}, "how long heat held"),
        ({"throttled": {"thermal": 0.0}}, "how long the power brake held"),
        ({"sm_mhz": ()}, "it does not say the mean and the least clock"),
        ({"busy": 1.7}, "the device was busy for 170.00% of it, more than all of it"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_window_of_the_full_protocol_passes_its_gates(folder, change, words):
    spans = windows(JOULES)
    bad = windows(JOULES, **change)
    energy = measured((*spans[:9], bad[9]))
    (problem,) = folder(on_gpu(JOULES, energy=energy))
    assert "window 10: " in problem and words in problem


def test_the_power_cap_is_legal(folder):
    held = windows(JOULES, throttled=FREE | {"power cap": 0.9})
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
    assert "window 1: it has 0.05 s, less than 0.5 s" in problem


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
    (problem,) = [problem for problem in problems if "energy.joules" in problem]
    assert words in problem


def test_joules_have_windows_to_stand_on(folder):
    energy = replace(on_gpu(JOULES).energy, windows=())
    problems = folder(on_gpu(JOULES, energy=energy))
    assert any("has no windows to stand on" in problem for problem in problems)


def test_one_window_gives_no_interval(folder):
    energy = measured(windows(JOULES[:1], busy=None))
    joules = Interval(energy.joules.value, 0.9, 1.1)
    energy = replace(energy, joules=joules, converged=False)
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
        (SENSOR | {"disagreement": 0.4}, "disagreement must be 0 to 0.05, got 0.4"),
        (SENSOR | {"disagreement": None}, "disagreement must be 0 to 0.05, got None"),
        (SENSOR | {"driver": "500.2"}, "it is of another driver: '500.2', the records' is '600.1'"),
        (SENSOR | {"uuid": "GPU-another"}, f"of the GPU {GPU['gpu_uuid']}"),
        (SENSOR | {"device": "cpu"}, "joules by NVML need a sensor*.json"),
        (SENSOR | {"uuid": "GPU-another"}, "it is of another GPU: its uuid is 'GPU-another'"),
        ("[]", "must be an object, got list"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
    ids=range(13),
)
def test_the_sensor_is_recorded_and_agrees(folder, sensor, words):
    assert any(words in problem for problem in folder(on_gpu(JOULES), sensor=sensor))


def test_the_driver_may_stand_with_the_board(folder):
    machine = GPU | {"driver": None, "board": {"driver": "600.1"}}
    assert folder(on_gpu(JOULES, machine=machine)) == []


def test_the_sensor_of_each_rank_is_recorded(folder):
    another = GPU | {"gpu_uuid": "GPU-another"}
    (problem,) = folder(on_gpu(JOULES), on_gpu(JOULES, machine=another, rank=1))
    assert ":2:" in problem and "of the GPU GPU-another" in problem


def test_heat_may_be_counted_in_two_parts(folder):
    parts = {"thermal (software)": 0.0, "thermal (hardware)": 0.0, "power brake": 0.0}
    assert folder(on_gpu(JOULES, energy=measured(windows(JOULES, throttled=parts)))) == []


def test_no_board_draws_that(folder):
    problems = folder(on_gpu([100.0] * 10))
    assert len(problems) == 10 and "window 1: 1e+05 W, and no board draws more" in problems[0]


def test_a_cycle_has_one_window_of_a_way(folder):
    spans = tuple(replace(window, cycle=3) for window in windows(JOULES))
    (problem,) = folder(on_gpu(JOULES, energy=measured(spans)))
    assert "its 10 windows are of 1 cycles" in problem


def test_a_window_of_no_joules_is_named(folder):
    spans = windows(JOULES[:9] + [0.0])
    ours = on_gpu(JOULES, way="ours", energy=measured(spans, ratio=interval.median([1.0] * 9)))
    (problem,) = folder(on_gpu(JOULES), ours)
    assert "window 10: 0 J: the counter did not count" in problem


@pytest.mark.parametrize("executed, right", [(10**15, False), (0, False), (5, True)])
def test_no_more_is_executed_than_the_dense_mathematics(folder, executed, right):
    problems = folder(make(executed_flops=executed), sensor=None)
    assert problems == [] if right else f"executed_flops is {executed}, of" in problems[0]


def test_what_has_no_flops_executes_none(folder):
    assert folder(make(flops=0), sensor=None) == []


@pytest.mark.parametrize("name", ["ratio", "ratio_low", "ratio_high"])
def test_the_ratio_is_of_the_times(folder, name):
    (problem,) = folder(make(), replace(make(way="ours"), **{name: 50.0}), sensor=None)
    assert f"ours: {name} is 50, by its times and the baseline's it is 1" in problem


def test_the_ratio_of_other_rounds_lies_within_what_any_pairs_give(folder):
    half = replace(make(way="ours"), times=(5e-4,) * 3)
    right = replace(half, ratio=2.0, ratio_low=2.0, ratio_high=2.0)
    assert folder(make(), right, sensor=None) == []
    problems = folder(replace(right, way="peer", ratio=2.1), sensor=None)
    assert len(problems) == 1 and "ratio is 2.1, by its times" in problems[0]


def test_the_ratio_is_to_a_baseline_of_the_same_run(folder):
    other = make(date="2026-01-02T00:00:00+00:00")
    (problem,) = folder(other, make(way="ours"), sensor=None)
    assert "its ratio has no times of the baseline, torch fp32, in this run" in problem


@pytest.mark.parametrize(
    "values, label, words",
    [
        ([1.0, 1.5] * 5, {"converged": True}, "energy.converged is True, by its windows it is F"),
        ([1.0] * 10, {"converged": None}, "energy.converged is None, by its windows it is True"),
        (JOULES, {"power_limited": True}, "energy.power_limited is True, by its windows it is F"),
        (JOULES, {"power_limited": None}, "energy.power_limited is None"),
    ],
)
def test_labels_are_of_the_windows(folder, values, label, words):
    (problem,) = folder(on_gpu(values, energy=measured(windows(values), **label)))
    assert words in problem


def test_the_power_cap_is_labelled(folder):
    held = measured(windows(JOULES, throttled=FREE | {"power cap": 0.8}), power_limited=False)
    (problem,) = folder(on_gpu(JOULES, energy=held))
    assert "energy.power_limited is False, by its windows it is True" in problem


NET = {"idle_watts": 100.0, "net_reason": None}  # of 1000 W


@pytest.mark.parametrize(
    "net, words",
    [
        (Interval(1e-9, 1e-10, 1e-8), "energy.net is 1e-09, by its windows and idle_watts it is"),
        (Interval(1.3, 1.2, 1.4), "energy.net is 1.3, more than energy.joules, 1"),
        (Interval(0.9, 0.91, 0.92), "energy.net is 0.9, its interval 0.91 - 0.92"),
        (Interval(0.9, -0.1, 1.0), "energy.net is 0.9, its interval -0.1 - 1.0"),
        (Interval(0.9), "energy.net is 0.9, its interval None - None"),
    ],
)
def test_net_is_gross_less_idle(folder, net, words):
    right = measured(windows(JOULES), net=Interval(0.9, 0.88, 0.92), **NET)
    assert folder(on_gpu(JOULES, energy=right)) == []
    problems = folder(on_gpu(JOULES, way="ours", energy=replace(right, net=net)))
    assert any(words in problem for problem in problems)


def test_net_needs_the_idle_power(folder):
    (problem,) = folder(
        on_gpu(JOULES, energy=measured(windows(JOULES), net=Interval(0.9, 0.88, 0.92)))
    )
    assert "energy.net needs energy.idle_watts" in problem


def against(difference, ratio, **more):
    """A way of half the baseline's joules."""
    half = windows([value / 2 for value in JOULES], **more)
    return on_gpu(JOULES, way="ours", energy=measured(half, difference=difference, ratio=ratio))


def test_difference_and_ratio_are_of_the_baselines_windows(folder):
    difference = interval.median([-value / 2 for value in JOULES])
    ratio = interval.median([2.0] * 10)
    assert folder(on_gpu(JOULES), against(difference, ratio)) == []


@pytest.mark.parametrize(
    "name, wrong, words",
    [
        ("ratio", Interval(50.0, 49.0, 51.0), "energy.ratio is 50, the median of its windows 2"),
        ("ratio", Interval(2.0, 1.0, 2.0), "energy.ratio.low is 1, by its windows it is about 2"),
        ("ratio", Interval(2.0), "energy.ratio has no interval, and 10 windows give one"),
        ("difference", Interval(-100.0, -101.0, -99.0), "energy.difference is -100, the median"),
        ("difference", Interval(-0.5, -0.51, 0.4), "energy.difference.high is 0.4"),
    ],
)
def test_a_difference_or_ratio_that_windows_do_not_give(folder, name, wrong, words):
    figures = {"difference": None, "ratio": None} | {name: wrong}
    problems = folder(on_gpu(JOULES), against(**figures))
    assert words in problems[0] and all("ours: energy." in problem for problem in problems)


def test_windows_are_compared_by_cycle(folder):
    """The second way's windows are in the other order of cycles: ratios are not all 2."""
    figures = against(None, interval.median([2.0] * 10))
    spans = [replace(window, cycle=9 - window.cycle) for window in figures.energy.windows]
    energy = replace(figures.energy, windows=tuple(spans))
    ratios = [2 * a / b for a, b in zip(JOULES, reversed(JOULES), strict=True)]
    right = replace(energy, ratio=interval.median(ratios))
    assert folder(on_gpu(JOULES), replace(figures, energy=right)) == []
    problems = folder(replace(figures, way="peer", energy=energy))
    assert problems and all("peer: energy.ratio" in problem for problem in problems)


def test_a_ratio_has_a_baseline_with_joules(folder):
    base = on_gpu(JOULES, energy=unavailable("no meter"))
    (problem,) = folder(base, against(None, interval.median([2.0] * 10)))
    assert "energy.ratio has no windows of the baseline, torch fp32, in the same" in problem
