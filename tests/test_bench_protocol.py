"""The bench's energy protocol on a simulated GPU: known watts in, known joules out, or null."""

import dataclasses
import json
import math
import os
import random

import pynvml
import pytest
import torch
from fakes.gpu import EventClock, FakeCall, fake_gpu
from fakes.nvml import FakeBoard, FakeNvml

from green_kernels import energy
from green_kernels.bench import check, record
from green_kernels.bench.case import Case
from green_kernels.bench.joules import Joules
from green_kernels.bench.protocol import FULL, QUICK
from green_kernels.bench.runner import Runner

BASE_SECONDS, BASE_WATTS = 4e-4, 500.0
OURS_SECONDS, OURS_WATTS = 2e-4, 450.0


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No sensor profile of another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


class Bench:
    """A simulated machine, and one case of two ways on it."""

    def __init__(self, base=BASE_WATTS, ours=OURS_WATTS, gap=0.0, second=None, **board):
        self.clock, self.progress = EventClock(), lambda step: None
        boards = [FakeBoard(phase=0.037, **board)]
        self.nvml = FakeNvml(self.clock, boards if second is None else [*boards, second])
        self.board = boards[0]
        self.device = fake_gpu(self.nvml, self.clock, gap=gap)
        self.calls = {
            "torch fp32": FakeCall(BASE_SECONDS, base, torch.ones(4)),
            "ours": FakeCall(OURS_SECONDS, ours, torch.ones(4)),
        }

    def joules_per_call(self, way):
        """What a way of constant watts truly takes."""
        return self.calls[way].seconds * self.calls[way].watts

    def joules(self, protocol=FULL, deadline=None, progress=None):
        """The energy of each way, from Joules alone."""
        executor = self.device.executor
        batches = {
            way: executor.batch([call], round(0.03 / call.seconds))
            for way, call in self.calls.items()
        }
        progress = progress or self.progress
        return Joules(self.device, protocol, batches, deadline, progress).measure()

    def records(self, protocol=FULL, **more):
        """The records of the case, by way."""
        ways = {way: lambda call=call: call for way, call in self.calls.items()}
        case = Case(dtype="float32", flops=10**9, bytes=10**9, tolerance=0.01, ways=ways)
        runner = Runner(self.device, protocol, **more)
        return {r.way: r for r in runner.run("a_case", "small", lambda device: case)}


def is_null(energy, gate, reason):
    assert energy.status == "unavailable"
    assert energy.joules is energy.net is energy.ratio is energy.difference is None
    assert gate in energy.failed and reason in energy.failed[gate], energy.failed
    assert reason in energy.reason


def test_constant_watts_come_out_within_a_third_of_a_per_cent():
    bench = Bench()
    for way, joules in bench.joules().items():
        truth = bench.joules_per_call(way)
        assert joules.status == "measured" and joules.converged
        assert joules.joules.value == pytest.approx(truth, rel=0.003)
        assert len(joules.windows) == FULL.windows
        for window in joules.windows:
            assert window.joules_per_call == pytest.approx(truth, rel=0.003)
            assert window.seconds >= 5 and window.ticks >= 49.5 and window.busy > 0.999


@pytest.mark.parametrize("tick", [0.02, 0.1])
@pytest.mark.parametrize("phase", [0.0, 0.013, 0.0999])
def test_the_figure_depends_on_no_phase_and_no_tick(tick, phase):
    bench = Bench(tick=tick)
    bench.board.phase = phase
    ours = bench.joules()["ours"]
    assert ours.joules.value == pytest.approx(OURS_SECONDS * OURS_WATTS, rel=0.003)


def test_net_difference_and_ratio():
    ours = Bench(idle_watts=80.0).joules()["ours"]
    assert ours.idle_watts == pytest.approx(80.0, rel=0.003)
    assert ours.net.value == pytest.approx(OURS_SECONDS * (OURS_WATTS - 80.0), rel=0.005)
    assert ours.ratio.value == pytest.approx(
        BASE_SECONDS * BASE_WATTS / (OURS_SECONDS * OURS_WATTS), rel=0.005
    )
    assert ours.difference.value == pytest.approx(
        OURS_SECONDS * OURS_WATTS - BASE_SECONDS * BASE_WATTS, rel=0.005
    )


def test_what_cannot_be_told_from_idle_is_not_clipped_to_zero():
    ours = Bench(ours=80.0, idle_watts=80.0).joules()["ours"]
    assert ours.status == "measured" and ours.net is None
    assert "not identified" in ours.net_reason


def levels(seed, watts, deviation):
    """Power that is drawn anew each second, around a mean: windows that differ."""
    generator = random.Random(seed)
    drawn = [watts * (1 + generator.gauss(0, deviation)) for _ in range(10_000)]
    return lambda now: drawn[int(now)]


def test_the_interval_covers_the_truth_in_93_of_100_trials():
    windows_alone = dataclasses.replace(FULL, thorough=False)
    covered = 0
    for seed in range(100):
        bench = Bench(ours=levels(seed, OURS_WATTS, 0.02))
        del bench.calls["torch fp32"]
        joules = bench.joules(windows_alone)["ours"].joules
        covered += joules.low <= OURS_SECONDS * OURS_WATTS <= joules.high
    assert covered >= 93


def test_a_way_that_varies_is_measured_longer_and_said_not_to_have_converged():
    steady = Bench(ours=levels(1, OURS_WATTS, 0.001)).joules()["ours"]
    varying = Bench(ours=levels(1, OURS_WATTS, 0.1)).joules()["ours"]
    assert steady.converged and len(steady.windows) == FULL.windows
    assert not varying.converged and len(varying.windows) == FULL.most_windows
    assert varying.status == "measured"


def test_ways_take_turns_and_are_compared_within_a_cycle():
    steps = []
    joules = Bench().joules(progress=steps.append)
    turns = [step for step in steps if step.startswith("window")]
    assert turns[:4] == [
        "window 1 of torch fp32",
        "window 1 of ours",
        "window 2 of ours",
        "window 2 of torch fp32",
    ]
    assert [w.cycle for w in joules["ours"].windows] == list(range(FULL.windows))


def test_it_warms_up_until_temperature_stands_still():
    slow = Bench(heat=(30.0, 0.06, 25.0)).joules()["ours"]
    fast = Bench(heat=(30.0, 0.06, 1.0)).joules()["ours"]
    for joules in (slow, fast):
        assert joules.status == "measured"
        assert all(abs(w.celsius[1] - w.celsius[0]) <= 3 for w in joules.windows)


def fault(name):
    """Ways to spoil a measurement: when the fault comes, and what the figure must say."""

    def register(inject):
        FAULTS[inject.__name__] = (inject, name)
        return inject

    return register


FAULTS = {}


@fault(("alone", "other processes are on the GPU: PID 4242"))
def another_process_is_there(bench):
    bench.board.pids = [os.getpid(), 4242]


@fault(("alone", "other processes are on the GPU: PID 4242"))
def another_process_comes(bench):
    bench.clock.at(bench.clock() + 100, lambda: bench.board.pids.extend([os.getpid(), 4242]))


@fault(("counter", "stood still"))
def the_counter_freezes(bench):
    bench.clock.at(bench.clock() + 60, bench.board.freeze_counter)


@fault(("counter", "GPU is lost"))
def the_board_falls_off_the_bus(bench):
    bench.board.lose(bench.clock() + 60)


@fault(("counter", "energy counter"))
def the_counter_becomes_unreadable(bench):
    def lose():
        field = pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION
        bench.board.field_errors[field] = pynvml.NVML_ERROR_UNKNOWN

    bench.clock.at(bench.clock() + 60, lose)


@fault(("sensor", "9.1% apart, more than 5%"))
def the_counter_gains_a_tenth(bench):
    bench.board.counter_gain = 1.1


@fault(("sensor", "no power reading to check"))
def the_power_reading_goes_away(bench):
    def lose():
        for field in (pynvml.NVML_FI_DEV_POWER_AVERAGE, pynvml.NVML_FI_DEV_POWER_INSTANT):
            bench.board.field_errors[field] = pynvml.NVML_ERROR_UNKNOWN

    bench.clock.at(bench.clock() + 90, lose)


@fault(("sensor", "W by the energy counter"))
def the_counter_gains_a_tenth_later_on(bench):
    bench.clock.at(bench.clock() + 90, lambda: setattr(bench.board, "counter_gain", 1.1))


@fault(("throttle", "nothing says whether power brake held the clocks"))
def nothing_is_known_of_the_clocks(bench):
    for field in (75, 269, 270, 271):
        bench.board.field_errors[field] = pynvml.NVML_ERROR_NOT_SUPPORTED
    function = "nvmlDeviceGetCurrentClocksEventReasons"
    bench.board.errors[function] = pynvml.NVML_ERROR_NOT_SUPPORTED


@fault(("temperature", "it changed by"))
def it_gets_hot_in_the_middle_of_each_window(bench):
    celsius = bench.device.board.temperature
    begin = bench.clock()
    bench.device.board.temperature = lambda: celsius() + 15 * (int(bench.clock() - begin) % 3 == 0)


@fault(("clock", "the machine was suspended within the window"))
def the_machine_sleeps(bench):
    bench.device.suspended = lambda: 120.0 * (bench.clock() // 3)


@fault(("events", "it waited, or its times are wrong"))
def the_events_of_the_device_lie(bench):
    bench.device.executor.scale = 0.5


@fault(("alone", "PID 4242"))
def another_process_is_there_in_the_windows_only(bench):
    def progress(step):
        bench.board.pids = [os.getpid(), 4242] if step.startswith("window") else []

    bench.progress = progress


@fault(("way", "a call raised RuntimeError: CUDA out of memory"))
def the_calls_run_out_of_memory(bench):
    def out_of_memory(now):
        raise RuntimeError("CUDA out of memory\nTried to allocate")

    for call in bench.calls.values():
        steady = call.watts
        call.watts = lambda now, steady=steady: out_of_memory(now) if now > 170 else steady


@fault(("throttle", "thermal (hardware) held the clocks for 20.0% of the window"))
def heat_holds_the_clocks(bench):
    bench.board.throttle("thermal (hardware)", 0.2)


@fault(("throttle", "power brake held the clocks"))
def the_power_brake_holds_the_clocks(bench):
    bench.clock.at(bench.clock() + 90, lambda: bench.board.throttle("power brake", 0.05))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_makes_the_figure_null_and_is_named(name):
    inject, (gate, reason) = FAULTS[name]
    bench = Bench()
    inject(bench)
    for joules in bench.joules().values():
        is_null(joules, gate, reason)


HICCUPS = {  # what may happen to a counter at any time, and pass
    "reset": lambda bench: bench.board.reset_counter(),
    "back by 3 J": lambda bench: bench.board.turn_counter_back(3),
    "on by 1 J": lambda bench: bench.board.turn_counter_back(-1),
    "on by 5 kJ": lambda bench: bench.board.turn_counter_back(-5000),
    "an error": lambda bench: bench.nvml.fail(
        "nvmlDeviceGetFieldValues", pynvml.NVML_ERROR_TIMEOUT, times=1
    ),
    "a slow host": lambda bench: setattr(bench.device.executor, "gap", 0.01),
}


@pytest.mark.parametrize("hiccup", HICCUPS)
def test_no_hiccup_at_any_time_yields_a_wrong_figure(hiccup):
    """Where it does no harm the figure is right, and where it does it is null."""
    for after in random.Random(hiccup).sample(range(1, 170), 6):
        bench = Bench()
        bench.clock.at(bench.clock() + after + 0.3, lambda bench=bench: HICCUPS[hiccup](bench))
        for way, joules in bench.joules().items():
            truth = bench.joules_per_call(way)
            if joules.status == "measured":
                assert joules.joules.value == pytest.approx(truth, rel=0.003), after
            else:
                assert joules.joules is None and joules.reason, after


def test_a_counter_that_is_reset_within_a_window_makes_the_figure_null():
    bench = Bench()

    def progress(step):
        if step == "window 3 of ours":
            bench.clock.at(bench.clock() + 3, bench.board.reset_counter)

    joules = bench.joules(progress=progress)
    is_null(joules["ours"], "counter", "went back")
    assert joules["torch fp32"].status == "measured"


def test_a_gpu_that_waits_for_the_host_is_refused():
    for joules in Bench(gap=0.001).joules().values():
        is_null(joules, "busy", "the device worked 96.8% of the window, not 99%")


def test_a_gap_that_no_event_shows_is_refused_or_right():
    """The host is away for 180 ms now and then, and the queue runs dry."""
    bench, away = Bench(), random.Random(1)
    sleep = bench.clock.sleep
    bench.device.sleep = lambda seconds: sleep(0.18 if away.random() < 0.004 else seconds)
    for way, joules in bench.joules().items():
        truth = bench.joules_per_call(way)
        if joules.status == "measured":
            assert joules.joules.value == pytest.approx(truth, rel=0.005)
        assert all(window.busy >= 0.99 for window in joules.windows)


@pytest.mark.parametrize("milliseconds, status", [(1.6, "measured"), (20, "unavailable")])
def test_a_counter_that_is_slow_to_read_is_read_right_or_not_at_all(milliseconds, status):
    bench = Bench()
    joules = bench.device.meter.read
    sleep = bench.clock.sleep

    def read():
        sleep(milliseconds / 1e3)
        return joules()

    bench.device.meter.read = read
    for way, found in bench.joules().items():
        assert found.status == status
        if status == "measured":
            truth = bench.joules_per_call(way)
            assert found.joules.value == pytest.approx(truth, rel=0.003)


def test_without_idle_power_at_the_end_only_what_is_net_of_it_is_lost():
    bench = Bench()

    def progress(step):
        if step == f"window {FULL.windows} of torch fp32":  # the last but for the idle one
            bench.clock.at(bench.clock() + 9, bench.board.freeze_counter)

    ours = bench.joules(progress=progress)["ours"]
    assert ours.status == "measured" and ours.net is None
    assert "idle power: the counter stood still" in ours.net_reason


def test_it_is_looked_at_seldom_whether_it_has_converged():
    """Who looks after each window finds an interval that is narrow by chance."""
    numbers = set()
    for seed in range(6):
        ours = Bench(ours=levels(seed, OURS_WATTS, 0.04)).joules()["ours"]
        numbers.add(len(ours.windows))
    assert numbers <= {10, 20, 30} and len(numbers) > 1


def test_a_host_that_is_away_when_the_counter_ticks_is_refused():
    bench = Bench()
    sleep = bench.clock.sleep
    bench.device.sleep = lambda seconds: sleep(max(seconds, 0.012))
    for joules in bench.joules().values():
        is_null(joules, "edges", "the host was away")


def test_a_host_that_is_away_at_times_waits_for_the_next_tick():
    bench, away = Bench(), random.Random(0)
    sleep = bench.clock.sleep
    bench.device.sleep = lambda seconds: sleep(0.015 if away.random() < 0.01 else seconds)
    for way, joules in bench.joules().items():
        truth = bench.joules_per_call(way)
        assert joules.joules.value == pytest.approx(truth, rel=0.003)


def test_a_temperature_that_never_settles_is_refused():
    hot = lambda now: 300 + 250 * math.sin(now / 8)  # noqa: E731
    for joules in Bench(base=hot, ours=hot, heat=(30.0, 0.3, 5.0)).joules().values():
        is_null(joules, "settled", "still moved after 12")


def test_a_window_that_drifts_in_temperature_is_refused():
    """The baseline is cool and the other way hot: its windows begin before it is warm."""
    joules = Bench(base=100.0, ours=650.0, heat=(30.0, 0.1, 6.0)).joules()["ours"]
    assert joules.repeated >= 1 or "temperature" in joules.failed
    for window in joules.windows:
        assert abs(window.celsius[1] - window.celsius[0]) <= 3


def test_at_the_power_limit_a_figure_is_labelled():
    bench = Bench()
    bench.board.throttle("power cap", 0.5)
    joules = bench.joules()
    assert all(j.status == "measured" and j.power_limited for j in joules.values())
    assert all(j.power_limited is False for j in Bench().joules().values())


def test_too_little_time_is_said_and_not_spent():
    bench = Bench()
    start = bench.clock()
    for joules in bench.joules(deadline=start + 30).values():
        is_null(joules, "budget", "its windows take 151 s, and 30 s are left")
    assert bench.clock() - start < 1


def test_a_counter_without_power_to_check_it_is_refused():
    bench = Bench()
    for field in (pynvml.NVML_FI_DEV_POWER_AVERAGE, pynvml.NVML_FI_DEV_POWER_INSTANT):
        bench.board.field_errors[field] = pynvml.NVML_ERROR_NOT_SUPPORTED
    for joules in bench.joules().values():
        is_null(joules, "sensor", "cannot be checked without power")


def test_quick_is_one_short_window_without_an_interval():
    bench = Bench()
    start = bench.clock()
    ours = bench.joules(QUICK)["ours"]
    assert ours.joules.value == pytest.approx(OURS_SECONDS * OURS_WATTS, rel=0.003)
    assert ours.joules.low is ours.joules.high is ours.converged is None
    assert len(ours.windows) == 1
    assert ours.net is None and "full protocol only" in ours.net_reason
    assert bench.clock() - start < 10


def test_quick_too_refuses_a_gpu_that_others_use():
    bench = Bench()
    bench.board.pids = [os.getpid(), 4242]
    for joules in bench.joules(QUICK).values():
        is_null(joules, "alone", "PID 4242")


def test_clocks_that_heat_holds_are_refused_though_no_counter_has_their_time():
    bench = Bench()
    bench.board.throttle("thermal (hardware)", 0.2)
    for field in (75, 269, 270, 271):
        bench.board.field_errors[field] = pynvml.NVML_ERROR_NOT_SUPPORTED
    for joules in bench.joules().values():
        is_null(joules, "throttle", "thermal (hardware) held the clocks at times")


def test_a_counter_that_samples_a_quarter_of_the_time_is_still_right_for_a_steady_load():
    ours = Bench(coverage=0.25).joules()["ours"]
    assert ours.joules.value == pytest.approx(OURS_SECONDS * OURS_WATTS, rel=0.003)


def test_a_case_gets_joules_per_operation():
    records = Bench().records()
    ours = records["ours"]
    assert (ours.protocol, ours.data, ours.status) == ("full", "normal", "timed")
    assert ours.seconds == pytest.approx(OURS_SECONDS)
    assert ours.joules_per_flop == pytest.approx(OURS_SECONDS * OURS_WATTS / 1e9, rel=0.003)
    assert ours.ratio == pytest.approx(2.0)


def test_the_second_board_is_not_billed():
    second = FakeBoard(uuid="GPU-bbbb", idle_watts=300.0)
    ours = Bench(second=second).joules()["ours"]
    assert ours.joules.value == pytest.approx(OURS_SECONDS * OURS_WATTS, rel=0.003)


def test_what_it_writes_is_accepted_by_the_checker(tmp_path):
    bench = Bench()
    machine = {"gpu": "H100", "gpu_uuid": bench.device.board.uuid, "commit": "0" * 40}
    machine["driver"] = bench.device.board.driver()
    record.write(bench.records(machine=machine).values(), tmp_path / "records.jsonl")
    profile = energy.sensor_profile(bench.device.board)  # as the run has kept it
    (tmp_path / "sensor.json").write_text(json.dumps(dataclasses.asdict(profile)))
    assert check.check(tmp_path) == []
