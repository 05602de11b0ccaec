"""sensor and coverage: what is known of a simulated board is found by measuring it."""

import json
import random
from contextlib import contextmanager
from dataclasses import asdict, replace

import pynvml
import pytest
from fakes.clock import Clock
from fakes.nvml import FakeBoard, FakeNvml

from green_kernels.energy import sensor
from green_kernels.energy.coverage import coverage_test
from green_kernels.energy.meter import Unavailable
from green_kernels.energy.nvml import boards
from green_kernels.energy.sensor import cache_folder, save_profile, sensor_profile

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
ENERGY, INSTANT, AVERAGE = 83, 186, 185


class Machine:
    """One simulated board, its clock, and a load that draws 500 W."""

    def __init__(self, cache, driver="580.65.06", **board):
        self.clock, self.cache = Clock(), cache
        self.fake = FakeBoard(**board)
        self.nvml = FakeNvml(self.clock, [self.fake], driver)
        self.nvml.nvmlInit()
        (self.board,) = boards(self.nvml)

    @contextmanager
    def load(self):
        self.fake.set_power(500.0)
        try:
            yield
        finally:
            self.fake.set_power(80.0)

    def profile(self, **options):
        options = {"load": self.load, "cache": self.cache} | options
        return sensor_profile(self.board, clock=self.clock, sleep=self.clock.sleep, **options)

    def square_wave(self, on):
        self.fake.set_power(500.0 if on else 80.0)

    def coverage(self, sleep=None, **options):
        options = {"tick": self.fake.tick} | options
        return coverage_test(
            self.board,
            self.square_wave,
            clock=self.clock,
            sleep=sleep or self.clock.sleep,
            **options,
        )


@pytest.mark.parametrize("tick", [0.02, 0.1])
@pytest.mark.parametrize("phase", [0.0, 0.0137])
def test_the_tick_is_found_within_two_percent(tmp_path, tick, phase):
    machine = Machine(tmp_path, tick=tick, phase=phase, power_noise=2.0)
    profile = machine.profile()
    assert profile.tick_seconds == pytest.approx(tick, rel=0.02)
    assert profile.tick_spread <= 0.0021  # samples are 1 ms apart
    assert profile.joules_per_tick == pytest.approx(500.0 * tick, rel=0.01)
    assert profile.instant_tick_seconds == pytest.approx(0.1, rel=0.02)
    assert profile.average_tick_seconds == pytest.approx(0.1, rel=0.02)


def test_a_steady_load_is_measured_by_all_three_and_they_agree(tmp_path):
    machine = Machine(tmp_path, ramp=0.1)
    profile = machine.profile()
    assert profile.counter_watts == pytest.approx(500.0, rel=0.002)
    assert profile.instant_watts == pytest.approx(500.0, rel=0.002)
    assert profile.average_watts == pytest.approx(500.0, rel=0.002)
    assert (profile.agrees, profile.reason, profile.loaded) == (True, None, True)
    assert profile.disagreement < 0.005
    assert (profile.uuid, profile.driver) == (machine.fake.uuid, "580.65.06")
    assert profile.coverage == "unknown"


def test_an_update_that_shows_the_same_value_is_counted(tmp_path):
    """Power is in mW, so that a steady one repeats itself now and then."""
    profile = Machine(tmp_path, power_noise=0.001).profile()
    assert profile.instant_tick_seconds == pytest.approx(0.1, rel=0.02)
    assert profile.average_tick_seconds == pytest.approx(0.1, rel=0.02)


def test_power_that_never_changes_has_no_tick(tmp_path):
    assert Machine(tmp_path).profile().instant_tick_seconds is None


@pytest.mark.parametrize("gain", [1.1, 0.9])
def test_a_counter_with_a_gain_error_does_not_agree_and_the_reason_has_the_watts(tmp_path, gain):
    profile = Machine(tmp_path, counter_gain=gain).profile()
    assert not profile.agrees
    assert profile.disagreement == pytest.approx(abs(1 / gain - 1), abs=0.005)
    assert f"says {500 * gain:.1f} W, the power readings 500.0 W and 500.0 W" in profile.reason
    assert list(tmp_path.iterdir()) == []  # so that it is measured anew the next time


def test_a_board_without_average_power_is_checked_by_the_instant_one(tmp_path):
    """As A100 is."""
    machine = Machine(tmp_path)
    machine.fake.field_errors[AVERAGE] = NOT_SUPPORTED
    profile = machine.profile()
    assert (profile.agrees, profile.average_watts) == (True, None)
    assert profile.errors == {"average power": "Not Supported"}
    assert machine.profile() == profile  # from the cache


def test_a_board_without_power_cannot_be_checked(tmp_path):
    machine = Machine(tmp_path)
    machine.fake.field_errors |= {AVERAGE: NOT_SUPPORTED, INSTANT: NOT_SUPPORTED}
    profile = machine.profile()
    assert (profile.agrees, profile.disagreement) == (False, None)
    assert "cannot be checked without power (instant power: Not Supported" in profile.reason
    assert profile.counter_watts == pytest.approx(500.0, rel=0.002)


def test_a_board_without_a_counter_has_watts_and_a_reason(tmp_path):
    machine = Machine(tmp_path)
    machine.fake.field_errors[ENERGY] = NOT_SUPPORTED
    profile = machine.profile()
    assert (profile.agrees, profile.counter_watts, profile.tick_seconds) == (False, None, None)
    assert "energy counter cannot be read: Not Supported" in profile.reason
    assert profile.instant_watts == pytest.approx(500.0, rel=0.002)


def test_a_counter_that_stands_still_has_no_tick(tmp_path):
    machine = Machine(tmp_path)
    machine.fake.freeze_counter()
    profile = machine.profile()
    assert (profile.agrees, profile.tick_seconds, profile.counter_watts) == (False, None, None)
    assert "changed 0 times in 3 s" in profile.reason


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_a_counter_that_goes_back_is_no_counter(tmp_path, seconds):
    machine = Machine(tmp_path)
    machine.clock.sleep(1000.0)
    after = machine.clock() + seconds

    def sleep(duration):
        if machine.clock() < after <= machine.clock() + duration:
            machine.fake.reset_counter()
        machine.clock.sleep(duration)

    profile = sensor_profile(
        machine.board, machine.load, clock=machine.clock, sleep=sleep, cache=tmp_path
    )
    assert (profile.agrees, profile.tick_seconds) == (False, None)
    assert "went back" in profile.reason


def test_a_load_that_is_not_steady_says_nothing_of_the_sensor(tmp_path):
    machine = Machine(tmp_path)
    begin = machine.clock()

    def sleep(duration):
        machine.clock.sleep(duration)
        machine.fake.set_power(500.0 if machine.clock() < begin + 5.0 else 300.0)

    profile = sensor_profile(
        machine.board, machine.load, clock=machine.clock, sleep=sleep, cache=tmp_path
    )
    assert not profile.agrees and "not steady" in profile.reason


def test_the_load_is_stopped_and_the_error_passes_when_the_board_is_lost(tmp_path):
    machine = Machine(tmp_path)
    machine.fake.lose(at=machine.clock() + 4.0)
    with pytest.raises(Unavailable, match="GPU is lost"):
        machine.profile()
    assert machine.fake.demand == 80.0
    assert list(tmp_path.iterdir()) == []


def test_a_profile_refuses_mig(tmp_path):
    with pytest.raises(Unavailable, match="MIG mode"):
        Machine(tmp_path, mig=1).profile()


def test_a_profile_is_measured_once_for_each_board_and_driver(tmp_path):
    machine = Machine(tmp_path)
    profile = machine.profile()
    machine.nvml.calls.clear()
    assert machine.profile() == profile
    assert machine.nvml.calls["nvmlDeviceGetFieldValues"] == 0
    machine.profile(refresh=True)
    assert machine.nvml.calls["nvmlDeviceGetFieldValues"] > 1000
    other = Machine(tmp_path, driver="999.1", tick=0.02)
    assert other.profile().tick_seconds == pytest.approx(0.02, rel=0.02)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_profile_without_load_is_replaced_by_one_with(tmp_path):
    machine = Machine(tmp_path)
    idle = machine.profile(load=None)
    assert (idle.loaded, idle.agrees) == (False, True)
    assert idle.counter_watts == pytest.approx(80.0, rel=0.002)
    assert machine.profile().loaded
    assert machine.profile(load=None).loaded  # the better one stays


def test_a_load_may_be_a_context_manager_itself(tmp_path):
    machine = Machine(tmp_path)
    profile = machine.profile(load=machine.load())
    assert profile.counter_watts == pytest.approx(500.0, rel=0.002)


def test_a_verdict_on_coverage_is_kept_with_the_profile(tmp_path):
    machine = Machine(tmp_path)
    known = replace(machine.profile(), coverage="full")
    save_profile(known, tmp_path)
    assert machine.profile() == known


BROKEN = {
    "nothing": lambda good: "",
    "not JSON": lambda good: "{",
    "not text": lambda good: b"\xff\xfe",
    "half of it": lambda good: json.dumps(good)[:100],
    "a list": lambda good: "[1, 2]",
    "another board's": lambda good: good | {"uuid": "GPU-bbbb"},
    "another driver's": lambda good: good | {"driver": "1.0"},
    "a key too many": lambda good: good | {"note": ""},
    "a key too few": lambda good: {key: good[key] for key in good if key != "agrees"},
    "text for a number": lambda good: good | {"tick_seconds": "0.1"},
    "no tick": lambda good: good | {"tick_seconds": None},
    "a tick of zero": lambda good: good | {"tick_seconds": 0},
    "not a number": lambda good: good | {"counter_watts": float("nan")},
    "negative watts": lambda good: good | {"instant_watts": -1.0},
    "one that does not agree": lambda good: good | {"agrees": False},
    "too far apart": lambda good: good | {"disagreement": 0.5},
    "a verdict that is none": lambda good: good | {"coverage": "most"},
    "errors that are none": lambda good: good | {"errors": None},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_not_sound_is_measured_again(tmp_path, broken):
    machine = Machine(tmp_path)
    options = {"tick_seconds": 1.0, "steady_seconds": 2.0}
    good = machine.profile(**options)
    (file,) = tmp_path.iterdir()
    content = broken(asdict(good))
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    machine.nvml.calls.clear()
    again = machine.profile(**options)
    assert machine.nvml.calls["nvmlDeviceGetFieldValues"] > 100
    assert again.tick_seconds == pytest.approx(0.1, rel=0.02)
    assert json.loads(file.read_text())["uuid"] == machine.fake.uuid


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert Machine(blocked / "sensors").profile().agrees


def test_the_cache_is_where_xdg_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "green_kernels" / "sensors"
    Machine(None).profile()
    assert [path.suffix for path in cache_folder().iterdir()] == [".json"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "green_kernels" / "sensors"


def test_a_profile_that_is_being_written_is_never_seen_in_part(tmp_path, monkeypatch):
    machine = Machine(tmp_path)
    profile = machine.profile()
    (file,) = tmp_path.iterdir()
    before = file.read_text()

    def break_off(path, text):
        path.write_bytes(text[:100].encode())
        raise OSError("no space left")

    monkeypatch.setattr(sensor.Path, "write_text", break_off)
    save_profile(replace(profile, coverage="full"), tmp_path)
    assert [path.read_text() for path in tmp_path.glob("*.json")] == [before]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tick", [0.02, 0.1])
def test_a_counter_that_sees_all_is_found_full(tmp_path, seed, tick):
    rng = random.Random(seed)
    machine = Machine(tmp_path, tick=tick, phase=rng.uniform(0, tick), noise=2.0, seed=seed)
    machine.clock.sleep(rng.uniform(0, 1))
    found = machine.coverage()
    assert (found.verdict, found.reason) == ("full", None)
    assert found.on_watts == pytest.approx(500.0, rel=0.02)
    assert found.off_watts == pytest.approx(80.0, rel=0.05)
    assert found.watts == pytest.approx([80 + 0.25 * 420] * 8, rel=0.03)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tick", [0.02, 0.1])
@pytest.mark.parametrize("ramp", [0.0, 0.1])
def test_a_counter_that_sees_a_quarter_is_found_partial(tmp_path, seed, tick, ramp):
    rng = random.Random(seed)
    machine = Machine(
        tmp_path,
        tick=tick,
        coverage=0.25,
        phase=rng.uniform(0, tick),
        noise=2.0,
        ramp=ramp * tick,
        seed=seed,
    )
    machine.clock.sleep(rng.uniform(0, 1))
    found = machine.coverage(tick=tick * 1.0003)  # as well as three seconds can tell it
    assert (found.verdict, found.reason) == ("partial", None)
    assert found.spread > 0.5
    assert machine.fake.demand == 80.0


def test_a_wave_whose_edges_are_late_tells_nothing(tmp_path):
    machine = Machine(tmp_path, coverage=0.25)
    rng = random.Random(0)
    found = machine.coverage(sleep=lambda s: machine.clock.sleep(s + rng.uniform(0, 0.02)))
    assert (found.verdict, found.spread) == ("unknown", None)
    assert "could not be held" in found.reason
    assert found.late_seconds == pytest.approx(0.019, abs=0.002)


def test_a_load_that_makes_no_difference_tells_nothing(tmp_path):
    found = Machine(tmp_path, idle_watts=80.0, limits=(90.0, 90.0, 90.0)).coverage()
    assert found.verdict == "unknown"
    assert "too little difference: 90.0 W on, 80.0 W off" in found.reason


def test_a_spread_that_is_neither_small_nor_large_is_unknown(tmp_path):
    found = Machine(tmp_path, coverage=0.93).coverage()
    assert found.verdict == "unknown"
    assert 0.05 < found.spread < 0.15
    assert "varied by" in found.reason


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tick": 0.0}, "tick must be above 0 s, not 0.0"),
        ({"phases": 1}, "phases must be 2 or more, not 1"),
        ({"seconds": 0.5}, "seconds must be at least 10 ticks, 1, not 0.5"),
    ],
)
def test_what_is_out_of_range_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Machine(tmp_path).coverage(**options)


def test_the_load_is_off_when_the_board_is_lost(tmp_path):
    machine = Machine(tmp_path)
    machine.fake.lose(at=machine.clock() + 3.0)
    with pytest.raises(Unavailable, match="GPU is lost"):
        machine.coverage()
    assert machine.fake.demand == 80.0


def test_coverage_refuses_mig(tmp_path):
    with pytest.raises(Unavailable, match="MIG mode"):
        Machine(tmp_path, mig=1).coverage()
