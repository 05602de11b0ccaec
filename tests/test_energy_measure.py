"""energy.measure: the joules of a window by device, and the reason where they are not known."""

import ast
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from fakes.clock import Clock

import green_kernels
from green_kernels import energy
from green_kernels.energy import FakeMeter, Unavailable, measure
from green_kernels.energy.devices import device_name

MODULES = sorted((Path(green_kernels.__file__).parent / "energy").glob("*.py"))


class CounterMeter:
    """A counter that a test moves by hand."""

    name, device, tick, read_within = "counter", "cpu", 0.001, None

    def __init__(self, joules=100.0):
        self.joules = joules

    def fresh(self):
        return self

    def read(self):
        if isinstance(self.joules, Exception):
            raise self.joules
        return self.joules


@pytest.fixture
def clock():
    return Clock()


def refused(window, reason, device="cpu"):
    assert window.joules[device] is None and window.total is None
    assert window.reasons[device] == reason
    assert window.status == f"unavailable({reason})"


def test_known_watts_in_known_joules_out(clock):
    with measure(meters=[FakeMeter(300.0, clock=clock)], clock=clock) as window:
        clock.sleep(5.0)
    assert window.seconds == pytest.approx(5.0)
    assert window.joules == {"cpu": pytest.approx(1500.0)}
    assert window.watts == {"cpu": pytest.approx(300.0)}
    assert window.total == pytest.approx(1500.0)
    assert (window.status, window.sources, window.reasons) == ("measured", {"cpu": "fake"}, {})


def test_power_that_changes_is_counted_as_it_was(clock):
    meter = FakeMeter(100.0, clock=clock)
    with measure(meters=[meter], clock=clock) as window:
        clock.sleep(2.0)
        meter.watts = 300.0
        clock.sleep(1.0)
    assert window.total == pytest.approx(500.0)


@pytest.mark.parametrize("phase", [0.0, 0.03, 0.099])
@pytest.mark.parametrize("seconds", [2.0, 2.07, 3.3])
def test_joules_are_off_by_a_tick_at_the_most(clock, phase, seconds):
    meter = FakeMeter(300.0, tick=0.1, clock=clock)
    clock.sleep(phase)
    with measure(meters=[meter], clock=clock) as window:
        clock.sleep(seconds)
    assert abs(window.total - 300.0 * seconds) <= 300.0 * meter.tick + 1e-6


def test_a_window_of_few_ticks_is_refused_and_timed(clock):
    with measure(meters=[FakeMeter(tick=0.1, clock=clock)], clock=clock) as window:
        clock.sleep(0.04)
    refused(window, "window of 0.04 s is shorter than 20 counter ticks")
    assert window.seconds == pytest.approx(0.04)
    assert window.watts == {"cpu": None}


@pytest.mark.parametrize("seconds, status", [(1.99, "unavailable"), (2.0, "measured")])
def test_twenty_ticks_are_enough_and_no_fewer(clock, seconds, status):
    with measure(meters=[FakeMeter(tick=0.1, clock=clock)], clock=clock) as window:
        clock.sleep(seconds + 1e-9)
    assert window.status.startswith(status)


def test_an_open_window_has_no_joules(clock):
    with measure(meters=[FakeMeter(clock=clock)], clock=clock) as window:
        refused(window, "the window is still open")
        clock.sleep(1.0)
    assert window.status == "measured"


def test_an_exception_in_the_block_passes(clock):
    with pytest.raises(KeyError), measure(meters=[FakeMeter(clock=clock)], clock=clock) as window:
        clock.sleep(1.0)
        raise KeyError
    refused(window, "the measured code raised an exception")


@pytest.mark.parametrize(
    "end, reason",
    [
        (100.0, "the counter of cpu stood still for 5 s"),
        (40.0, "the counter of cpu went back by 60 J: it was reset within the window"),
        (Unavailable("the board is lost"), "the board is lost"),
    ],
)
def test_a_counter_that_fails_is_refused(clock, end, reason):
    meter = CounterMeter()
    with measure(meters=[meter], clock=clock) as window:
        clock.sleep(5.0)
        meter.joules = end
    refused(window, reason)


def test_a_counter_that_cannot_be_read_at_the_start_is_refused(clock):
    meter = CounterMeter(Unavailable("the board is lost"))
    with measure(meters=[meter], clock=clock) as window:
        clock.sleep(5.0)
        meter.joules = 5.0
    refused(window, "the board is lost")


def test_one_device_failing_leaves_the_others_joules_and_no_total(clock):
    lost = FakeMeter(device="cuda:0", clock=clock)
    lost.read = CounterMeter(Unavailable("the board is lost")).read
    with measure(meters=[FakeMeter(50.0, clock=clock), lost], clock=clock) as window:
        clock.sleep(2.0)
    assert window.joules == {"cpu": pytest.approx(100.0), "cuda:0": None}
    assert window.total is None
    assert window.status == "unavailable(cuda:0: the board is lost)"


def test_two_names_of_one_board_are_summed_once(clock):
    one = FakeMeter(100.0, "cuda:0", clock=clock, identity="GPU-aaaa")
    same = FakeMeter(100.0, "cuda:1", clock=clock, identity="GPU-aaaa")
    with measure(meters=[one, same, FakeMeter(10.0, clock=clock)], clock=clock) as window:
        clock.sleep(2.0)
    assert window.joules["cuda:0"] == window.joules["cuda:1"] == pytest.approx(200.0)
    assert window.total == pytest.approx(220.0)


def test_two_meters_of_one_device_are_an_error(clock):
    meters = [FakeMeter(clock=clock), CounterMeter()]
    with pytest.raises(ValueError, match="two are of one device.*fake of cpu, counter of cpu"):
        with measure(meters=meters, clock=clock):
            pass


@pytest.mark.parametrize(
    "arguments, reason",
    [({"devices": []}, "no device was given"), ({"meters": []}, "no meter was given")],
)
def test_nothing_to_measure_is_not_zero_joules(clock, arguments, reason):
    with measure(**arguments, clock=clock) as window:
        clock.sleep(5.0)
    assert (window.joules, window.total, window.seconds) == ({}, None, 5.0)
    assert window.status == f"unavailable({reason})"


def test_a_device_without_meters_is_timed_all_the_same():
    with measure("meta") as window:
        torch.ones(8).sum()
    refused(window, "no energy meter for device meta; there are meters for cuda and cpu", "meta")
    assert window.seconds > 0


def test_this_machine_measures_or_says_why():
    with measure() as window:
        torch.ones(64, 64).mm(torch.ones(64, 64))
    assert len(window.joules) == 1
    assert (window.total is None) == bool(window.reasons)
    assert (window.status == "measured") == (window.total is not None)


def test_windows_nest(clock):
    meter = FakeMeter(10.0, clock=clock)
    with measure(meters=[meter], clock=clock) as outer:
        clock.sleep(1.0)
        with measure(meters=[meter], clock=clock) as inner:
            clock.sleep(2.0)
    assert inner.total == pytest.approx(20.0)
    assert outer.total == pytest.approx(30.0)


def test_windows_of_several_threads_do_not_disturb_each_other():
    meter, windows = FakeMeter(1000.0, tick=1e-5), {}
    barrier = threading.Barrier(4)

    def run(i):
        barrier.wait()
        for _ in range(50):
            with measure(meters=[meter]) as window:
                end = time.perf_counter() + 2e-4 * (i + 1)
                while time.perf_counter() < end:
                    pass
            windows.setdefault(i, []).append(window)

    threads = [threading.Thread(target=run, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert len(windows[i]) == 50
        for window in windows[i]:
            assert window.total >= 1000.0 * (2e-4 * (i + 1) - 2 * meter.tick)


def test_a_window_may_close_in_another_thread(clock):
    context = measure(meters=[FakeMeter(10.0, clock=clock)], clock=clock)
    window = context.__enter__()
    clock.sleep(3.0)
    thread = threading.Thread(target=context.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert window.total == pytest.approx(30.0)


def test_a_counter_that_does_not_wrap_needs_no_thread(clock):
    before = threading.active_count()
    with measure(meters=[FakeMeter(clock=clock)], clock=clock):
        assert threading.active_count() == before


def test_a_counter_that_wraps_soon_is_read_in_between():
    class Wrapping(CounterMeter):
        tick, read_within, reads = 0.0, 0.001, 0

        def read(self):
            self.reads += 1
            return float(self.reads)

    meter, before = Wrapping(), threading.active_count()
    with measure(meters=[meter]) as window:
        while meter.reads < 5:  # by another thread; without one this never ends
            time.sleep(0.001)
    assert window.total >= 5
    assert threading.active_count() == before


def test_a_reading_in_between_that_fails_is_the_reason():
    class Failing(CounterMeter):
        tick, read_within = 0.0, 0.001

        def __init__(self):
            self.failed, self.reads = threading.Event(), 0

        def read(self):
            self.reads += 1
            if self.reads == 2:
                self.failed.set()
                raise OSError("the file is gone")
            return float(self.reads)

    meter = Failing()
    with measure(meters=[meter]) as window:
        assert meter.failed.wait(10)
    refused(window, "the file is gone")


@pytest.mark.parametrize(
    "device, name",
    [
        ("cuda:3", "cuda:3"),
        (2, "cuda:2"),
        (torch.device("cuda", 1), "cuda:1"),
        ("cpu", "cpu"),
        (torch.device("cpu", 0), "cpu"),
        ("mps", "mps"),
    ],
)
def test_a_device_has_one_name(device, name):
    assert device_name(device) == name


@pytest.mark.parametrize("device", [-1, True, 1.5, "cuda:x", "", "GPU-8932f937", None])
def test_what_is_no_device_is_an_error(device):
    with pytest.raises(ValueError, match="devices: .* is none; give"):
        device_name(device)


def test_a_device_given_twice_counts_once():
    found = energy.find_meters(["cpu", torch.device("cpu"), "meta", "meta"])
    assert list(found) == ["cpu", "meta"]


def test_meters_are_looked_for_once(monkeypatch):
    looked = []

    def look(device):
        looked.append(device)
        raise Unavailable("none here")

    module = sys.modules["green_kernels.energy.measure"]
    monkeypatch.setattr(module, "_found", {})
    monkeypatch.setattr(module, "_look_for", look)
    for _ in range(3):
        assert str(energy.find_meters("cpu")["cpu"]) == "none here"
    assert looked == ["cpu"]
    monkeypatch.setattr("os.getpid", lambda: -1)  # as in a forked process
    energy.find_meters("cpu")
    assert looked == ["cpu", "cpu"]


def imported_at_once(node):
    """The packages that importing a module imports: not those of functions or type hints."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.module.partition(".")[0]
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        elif not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield from imported_at_once(child)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_modules_import_only_the_standard_library_and_each_other(module):
    """Neither torch nor a driver library: these are asked for when they are needed."""
    imported = set(imported_at_once(ast.parse(module.read_text())))
    assert imported <= {*sys.stdlib_module_names, "green_kernels"}


def test_importing_the_package_loads_no_library_that_only_some_need():
    """What torch itself loads, as pynvml where it is installed, is not ours to avoid."""
    code = (
        "import sys, torch; before = set(sys.modules); import green_kernels;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "green_kernels" in done.stdout.split()
    assert not {"matplotlib", "transformers", "codecarbon", "pynvml"} & {*done.stdout.split()}


def test_a_machine_that_slept_within_the_window_is_refused(clock, monkeypatch):
    """perf_counter stands still meanwhile, and the counter does not."""
    slept = [5.0]
    monkeypatch.setattr(sys.modules[measure.__module__], "suspended_seconds", lambda: slept[0])
    with measure(meters=[FakeMeter(50.0, clock=clock)], clock=clock) as window:
        clock.sleep(5.0)
        slept[0] += 120.0
    refused(window, "the machine was suspended for 120 s in the window")
