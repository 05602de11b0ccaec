"""bench sweep-clocks: finds the clock that physics says, and touches nothing it was not told to."""

from dataclasses import replace

import pynvml
import pytest
import torch
from fakes.gpu import EventClock, fake_gpu
from fakes.nvml import FakeBoard, FakeNvml

from green_kernels import energy
from green_kernels.bench import clock_point, command, device
from green_kernels.bench.case import CASES, Case, Entry, Unavailable
from green_kernels.bench.clock_point import ClockPoint, choose
from green_kernels.bench.figures import Interval
from green_kernels.bench.schema import CorruptRecord
from green_kernels.bench.sweep import Sweep, plan, spread

CLOCKS = tuple(range(1980, 885, -15))
LEAKAGE = 100.0  # W
BEST = 1200.0  # MHz
# P = L + c f^3 and t = w / f, so that joules = w (L / f + c f^2), least where L = 2 c f^3.
CUBIC = LEAKAGE / (2 * BEST**3)


def watts(mhz):
    return LEAKAGE + CUBIC * mhz**3


def seconds(mhz):
    return 0.2 / mhz


def joules(mhz):
    return watts(mhz) * seconds(mhz)


class ClockedCall:
    """A call that is the slower, and draws the less, the lower the clock is locked."""

    def __init__(self, board):
        self.board = board

    @property
    def mhz(self):
        return self.board.locked or self.board.clocks[0]

    @property
    def seconds(self):
        return seconds(self.mhz)

    def watts(self, now):
        return watts(self.mhz)

    def __call__(self):
        return torch.ones(4)


class Machine:
    """A simulated GPU, and the sweep of a case of one way on it."""

    def __init__(self, wrong=False):
        self.clock = EventClock()
        self.board = FakeBoard(phase=0.037, clocks=CLOCKS)
        self.nvml = FakeNvml(self.clock, [self.board])
        self.device = fake_gpu(self.nvml, self.clock)
        call = ClockedCall(self.board)
        ours = (lambda: lambda: 2 * torch.ones(4)) if wrong else lambda: call
        ways = {"torch fp32": lambda: call, "ours": ours}
        self.case = Case("float32", flops=10**9, bytes=10**9, tolerance=0.01, ways=ways)
        self.entry = Entry(lambda name: self.case, default=False)
        self.sweep = Sweep(self.device, "a_case", "small", self.entry, "ours")

    @property
    def sets(self):
        return {name: n for name, n in self.nvml.calls.items() if "Set" in name or "Reset" in name}

    def points(self, number):
        return list(self.sweep.points(spread(self.device.board.supported_sm_clocks(), number)))


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    """No sensor profile of another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A machine, and its points at nine clocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        machine = Machine()
        return machine, machine.points(9)


def test_each_clock_costs_what_physics_says(swept):
    machine, points = swept
    assert [p.mhz for p in points] == [*spread(CLOCKS, 9), CLOCKS[0]]
    for p in points:
        assert p.reason is None and p.seen_mhz == p.mhz
        assert p.seconds.value == pytest.approx(seconds(p.mhz), rel=1e-6)
        assert p.joules.value == pytest.approx(joules(p.mhz), rel=0.003)
        assert p.joules.low <= p.joules.value <= p.joules.high
        assert p.joules_per_flop == p.joules.value / 1e9
    assert [p.again for p in points] == [False] * 9 + [True]
    assert machine.board.locked is None


def test_without_a_bound_the_least_of_all_is_chosen(swept):
    choice = choose(swept[1], slowdown=2.0)
    assert choice.point.mhz == min(spread(CLOCKS, 9), key=joules)
    assert abs(choice.point.mhz - BEST) < 140  # between two points
    saved = 1 - joules(choice.point.mhz) / joules(1980)
    assert choice.saved.low <= choice.saved.value <= choice.saved.high
    assert choice.saved.value == pytest.approx(saved, abs=0.005)


@pytest.mark.parametrize("bound", [0.05, 0.1, 0.3])
def test_the_choice_keeps_within_the_bound(swept, bound):
    choice = choose(swept[1], bound)
    allowed = [mhz for mhz in spread(CLOCKS, 9) if 1980 / mhz - 1 <= bound]
    assert choice.point.mhz == min(allowed, key=joules)
    assert choice.slowdown.value == pytest.approx(1980 / choice.point.mhz - 1, abs=1e-6)
    assert choice.slowdown.high <= bound


def point(mhz, time, energy, width=0.001, again=False):
    """A point made by hand; its intervals are `width` of it to either side."""

    def around(value):
        return Interval(value, value * (1 - width), value * (1 + width))

    return ClockPoint(
        case="a_case",
        shape="small",
        way="ours",
        gpu_uuid="GPU-1",
        mhz=mhz,
        again=again,
        flops=10**9,
        seconds=around(time),
        joules=around(energy),
        seen_mhz=float(mhz),
        power_limited=False,
        reason=None,
        date="2026-01-01T00:00:00+00:00",
    )


def test_a_tie_goes_to_the_faster_clock():
    points = [point(1980, 1.0, 2.0), point(1800, 1.02, 1.001), point(1600, 1.05, 1.0)]
    assert choose(points, 0.1).point.mhz == 1800
    surely = [point(1980, 1.0, 2.0), point(1800, 1.02, 1.01), point(1600, 1.05, 1.0)]
    assert choose(surely, 0.1).point.mhz == 1600


def test_a_clock_that_may_be_too_slow_is_not_chosen():
    points = [point(1980, 1.0, 2.0), point(1800, 1.0995, 1.0)]
    assert choose(points, 0.1).point.mhz == 1980
    assert choose(points, 0.102).point.mhz == 1800


def test_without_the_top_s_joules_there_is_no_choice():
    unknown = replace(point(1980, 1.0, 2.0), joules=None, seconds=None, reason="the counter")
    assert choose([unknown, point(1800, 1.0, 1.0)], 0.1) is None


def test_clocks_are_spread_from_top_to_bottom():
    assert spread([9, 8, 7, 6, 5, 4, 3, 2, 1], 3) == [9, 5, 1]
    assert spread([9, 8], 8) == [9, 8]
    assert spread([9, 8, 7], 1) == [9]


def test_a_clock_that_fails_in_the_middle_is_put_back_and_named():
    machine = Machine()
    points = []
    for found in machine.sweep.points([1980, 1500, 1200]):
        assert machine.board.locked is None
        points.append(found)
        if len(points) == 1:
            machine.nvml.fail("nvmlDeviceSetGpuLockedClocks", pynvml.NVML_ERROR_UNKNOWN, times=1)
    assert [p.joules is None for p in points] == [False, True, False, False]
    assert "nvmlDeviceSetGpuLockedClocks failed" in points[1].reason
    assert choose(points, 2.0).point.mhz == 1200


def test_a_counter_that_dies_at_a_clock_leaves_no_lock():
    machine = Machine()
    found = machine.sweep.points([1980, 1500])
    next(found)
    machine.clock.at(machine.clock() + 20, machine.board.freeze_counter)
    after = next(found)
    assert after.joules is None and "stood still" in after.reason
    assert machine.board.locked is None


def run(monkeypatch, machine, *options):
    """Exit status of the command, with the machine in the place of this one."""
    monkeypatch.setitem(CASES, ("a_case", "small"), machine.entry)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(device, "find", lambda name: machine.device)
    arguments = ["sweep-clocks", "a_case", "--device", "cuda", "--points", "4", *options]
    return command.main(arguments)


def test_without_the_flag_the_plan_is_printed_and_nothing_touched(monkeypatch, capsys, tmp_path):
    machine, file = Machine(), tmp_path / "points.jsonl"
    assert run(monkeypatch, machine, "--json", str(file)) == 0
    out = capsys.readouterr().out
    assert "nvidia-smi -i GPU-aaaa0000-0000-0000-0000-000000000000 -lgc 1980,1980" in out
    assert "-rgc" in out and "root" in out and "Nothing was changed" in out
    assert machine.sets == {} and not file.exists()
    assert machine.clock() == 100.0


def test_the_plan_names_each_clock():
    machine = Machine()
    lines = list(plan(machine.device.board, [1980, 1500]))
    assert [line.split()[0] for line in lines if "as by: sudo" in line] == [
        "1980",
        "1500",
        "1980",
        "and",
    ]
    assert "about 3 minutes" in "\n".join(lines)


def test_with_the_flag_a_table_marks_the_choice(monkeypatch, capsys, tmp_path):
    machine, file = Machine(), tmp_path / "points.jsonl"
    assert run(monkeypatch, machine, "--set-clocks", "--slowdown", "2", "--json", str(file)) == 0
    out = capsys.readouterr().out
    (marked,) = (line for line in out.splitlines() if "<- chosen" in line)
    best = min(spread(CLOCKS, 4), key=joules)
    assert f"{best} MHz" in marked
    saved = 1 - joules(best) / joules(1980)
    assert f"{best} MHz: {saved:.1%}"[:-2] in out and "fewer joules per call than at 1980" in out
    assert "drift: the top clock cost" in out
    points = clock_point.read(file)
    assert [p.mhz for p in points] == [*spread(CLOCKS, 4), 1980]
    assert choose(points, 2.0).point.mhz == best
    assert machine.board.locked is None and machine.sets


def test_without_permission_it_says_how_and_ends_with_2(monkeypatch, capsys):
    machine = Machine()
    denied = pynvml.NVML_ERROR_NO_PERMISSION
    machine.board.errors["nvmlDeviceSetGpuLockedClocks"] = denied
    assert run(monkeypatch, machine, "--set-clocks") == 2
    err = capsys.readouterr().err
    assert "cannot be set" in err and "-lgc 1980,1980" in err
    assert machine.board.locked is None


def test_ctrl_c_puts_the_clock_back(monkeypatch, capsys):
    machine = Machine()

    def interrupt():
        assert machine.board.locked == 1980
        raise KeyboardInterrupt

    machine.clock.at(machine.clock() + 25, interrupt)
    assert run(monkeypatch, machine, "--set-clocks") == 130
    assert "the clock was put back" in capsys.readouterr().err
    assert machine.board.locked is None


def test_a_way_that_is_wrong_is_not_swept(monkeypatch, capsys):
    machine = Machine(wrong=True)
    assert run(monkeypatch, machine, "--set-clocks") == 1
    assert "ours is not swept: refused, off by 1" in capsys.readouterr().err
    assert run(monkeypatch, Machine(), "--set-clocks", "--way", "torch bf16") == 1
    assert "has no way of that name" in capsys.readouterr().err
    assert machine.sets == {}


def test_whether_a_way_is_right_is_seen_without_counting_joules():
    machine = Machine()
    machine.nvml.calls.clear()
    assert machine.sweep.fault() is None
    assert not machine.nvml.calls
    assert next(machine.sweep.points([1980])).joules is not None
    assert machine.nvml.calls["nvmlDeviceGetFieldValues"]  # where the counter of joules is


def test_a_way_that_cannot_be_had_or_compared_is_not_swept():
    def missing():
        raise Unavailable("not installed: pip install torchao")

    def broken():
        raise RuntimeError("no kernel\nfor this shape")

    machine = Machine()
    whole = machine.case
    machine.case = replace(whole, ways={**whole.ways, "ours": missing})
    assert machine.sweep.fault() == "unavailable, not installed: pip install torchao"
    machine.case = replace(whole, ways={**whole.ways, "ours": lambda: broken})
    assert machine.sweep.fault() == "refused, RuntimeError: no kernel"
    machine.case = replace(whole, ways={**whole.ways, "torch fp32": missing})
    words = "refused, torch fp32 gave nothing to compare with: not installed"
    assert machine.sweep.fault().startswith(words)


def test_a_board_without_joules_or_clocks_is_refused(monkeypatch, capsys):
    machine = Machine()
    machine.board.clocks = ()
    assert run(monkeypatch, machine, "--set-clocks") == 2
    assert "names no SM clocks that can be set" in capsys.readouterr().err
    machine.device = device.Gpu(None, name="cuda", no_meter="NVML cannot be initialised")
    assert run(monkeypatch, machine) == 2
    assert "no joules to sweep for: NVML cannot be initialised" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, words",
    [
        (["overhead", "--device", "cpu"], "a CPU has none"),
        (["int8_linear", "--device", "cuda"], "one case, one --shape and one --way"),
        (["overhead", "--device", "cuda", "--way", "ours", "--way", "ours triton"], "one --way"),
    ],
)
def test_what_cannot_be_swept_is_a_usage_error(monkeypatch, capsys, options, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(SystemExit) as end:
        command.main(["sweep-clocks", *options])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_a_file_of_points_is_read_back_and_checked(tmp_path):
    file, good = tmp_path / "points.jsonl", point(1980, 1.0, 2.0)
    file.write_text(good.json() + "\n")
    assert clock_point.read(file) == [good]
    for wrong, words in (
        (replace(good, joules=None), "or else a reason"),
        (replace(good, mhz=-1), "mhz must be finite and not negative"),
        (replace(good, format=9), "format must be 1"),
    ):
        file.write_text(good.json() + "\n" + wrong.json() + "\n")
        with pytest.raises(CorruptRecord, match=f"jsonl:2: .*{words}"):
            clock_point.read(file)
    file.write_text("nonsense\n")
    with pytest.raises(CorruptRecord, match="not JSON"):
        clock_point.read(file)


def test_the_library_s_lock_is_what_is_used():
    """energy.clocks checks the clock, and puts it back on signals: no second way around it."""
    machine = Machine()
    with energy.clocks(1500, machine.device.board, clock=machine.clock, sleep=machine.clock.sleep):
        assert machine.points(1)[0].joules is not None
        assert machine.board.locked == 1500
