"""bench sensor: what a counter is found to be worth, on simulated boards and counters."""

import json
from dataclasses import replace

import pynvml
import pytest
from fakes.clock import Clock
from fakes.gpu import EventClock, FakeCall, fake_gpu
from fakes.nvml import FakeBoard, FakeNvml
from fakes.powercap import FakePowercap

from green_kernels import energy
from green_kernels.bench import command, device, sensor
from green_kernels.bench.check import check
from green_kernels.bench.sensor import cpu_interfaces, cpu_rows, cpu_verdict, gpu_sensor

LOAD = FakeCall(2e-4, 450.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No sensor profile of another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def simulated(**board):
    """The bench's device on a simulated board."""
    clock = EventClock()
    return fake_gpu(FakeNvml(clock, [FakeBoard(phase=0.037, **board)]), clock)


@pytest.mark.parametrize("tick", [0.02, 0.1])
def test_a_good_counter_is_found_good(tick):
    found = gpu_sensor(simulated(tick=tick, power_tick=tick), LOAD)
    profile = found.profile
    assert profile.agrees and profile.loaded and profile.coverage == "unknown"
    assert profile.tick_seconds == pytest.approx(tick, rel=0.02)
    assert profile.counter_watts == pytest.approx(450, rel=0.003)
    assert profile.joules_per_tick == pytest.approx(450 * tick, rel=0.01)
    assert "agree to 0.0" in sensor.gpu_verdict(found)


def test_the_load_is_off_in_the_end():
    gpu = simulated(idle_watts=80.0)
    gpu_sensor(gpu, LOAD, coverage=True)
    gpu.clock.sleep(0.1)
    assert gpu.executor.board.demand == 80.0


@pytest.mark.parametrize("share, verdict", [(1.0, "full"), (0.25, "partial")])
@pytest.mark.parametrize("tick", [0.02, 0.1])
def test_coverage_tells_a_counter_that_samples(share, verdict, tick):
    gpu = simulated(coverage=share, tick=tick)
    found = gpu_sensor(gpu, LOAD, coverage=True)
    assert found.profile.coverage == found.wave.verdict == verdict
    assert found.wave.on_watts == pytest.approx(450, rel=0.01)
    again = gpu_sensor(gpu, LOAD)
    assert again.profile == found.profile and again.wave is None


def test_a_load_too_coarse_for_the_wave_gives_no_verdict():
    found = gpu_sensor(simulated(), FakeCall(0.02, 450.0), coverage=True)
    assert found.profile.coverage == "unknown"
    assert "the wave could not be held" in found.wave.reason
    row = next(row for row in sensor.gpu_rows(found) if row.name == "coverage")
    assert row.meaning == found.wave.reason


def test_what_is_known_is_measured_again_only_if_asked():
    gpu = simulated()
    first = gpu_sensor(gpu, LOAD).profile
    gpu.executor.board.counter_gain = 1.02
    before = gpu.clock()
    assert gpu_sensor(gpu, LOAD).profile == first and gpu.clock() - before < 1
    fresh = gpu_sensor(gpu, LOAD, refresh=True).profile
    assert fresh.disagreement == pytest.approx(1 - 1 / 1.02, rel=0.1)


def test_a_counter_that_is_wrong_is_not_trusted():
    found = gpu_sensor(simulated(counter_gain=1.1), LOAD)
    assert sensor.gpu_verdict(found).startswith("joules: not to be trusted")
    assert "9.1% apart, more than 5%" in sensor.gpu_verdict(found)


def test_a_frozen_counter_has_no_tick_and_no_coverage_test():
    gpu = simulated()
    gpu.executor.board.freeze_counter()
    found = gpu_sensor(gpu, LOAD, coverage=True)
    assert found.wave is None and found.profile.tick_seconds is None
    rows = {row.name: row for row in sensor.gpu_rows(found)}
    assert rows["tick"].value is None and rows["joules per tick"].value is None


def run(monkeypatch, tested, *options):
    """Exit status of the command, with a device in the place of this machine's."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(device, "find", lambda name: tested)
    monkeypatch.setattr(sensor, "_load", lambda name: LOAD)
    return command.main(["sensor", "--device", "cuda", *options])


def test_the_command_prints_a_table_and_a_file_that_check_accepts(monkeypatch, tmp_path, capsys):
    file = tmp_path / "a board" / "sensor.json"
    assert run(monkeypatch, simulated(), "--coverage", "--json", str(file)) == 0
    out = capsys.readouterr().out
    for words in ("GPU-aaaa0000", "between two updates of the energy counter", "joules: counter"):
        assert words in out
    written = json.loads(file.read_text())
    assert written["uuid"].startswith("GPU-aaaa") and written["driver"] == "580.65.06"
    assert written["agrees"] is True and written["coverage"] == "full"
    assert written["board"]["name"] == "NVIDIA H200"
    assert written["coverage_test"]["verdict"] == "full"
    assert not [p for p in check(file.parent) if p.file == file]


def test_the_command_fails_where_the_counter_is_wrong_or_lost(monkeypatch, capsys):
    assert run(monkeypatch, simulated(counter_gain=1.1)) == 1
    assert "not to be trusted" in capsys.readouterr().out
    gpu = simulated()
    gpu.executor.board.lose(gpu.clock() + 17)
    assert run(monkeypatch, gpu, "--refresh") == 1
    assert "joules: unavailable, NVIDIA H200" in capsys.readouterr().out


def test_a_board_without_nvml_is_no_failure(monkeypatch, capsys):
    missing = device.Gpu(None, name="cuda", no_meter="NVML cannot be initialised")
    assert run(monkeypatch, missing) == 0
    assert capsys.readouterr().out == "joules: unavailable, NVML cannot be initialised\n"


def test_a_board_without_power_readings_says_which(monkeypatch, capsys):
    gpu = simulated()
    for field in (pynvml.NVML_FI_DEV_POWER_AVERAGE, pynvml.NVML_FI_DEV_POWER_INSTANT):
        gpu.executor.board.field_errors[field] = pynvml.NVML_ERROR_NOT_SUPPORTED
    assert run(monkeypatch, gpu) == 1
    out = capsys.readouterr().out
    assert "no average power" in out and "cannot be checked without power" in out


class Counter:
    """A CPU's counter: `watts`, in steps of `tick` seconds."""

    name, tick, device = "made up", 0.001, "cpu"

    def __init__(self, clock, watts=50.0, tick=0.001):
        self.clock, self.watts, self.tick = clock, watts, tick

    def read(self):
        return self.watts * self.tick * int(self.clock() / self.tick + 1e-9)


def refused():
    raise energy.Unavailable("perf events may not be opened")


def test_a_cpu_s_counter_is_timed_and_the_other_interface_says_why_not():
    clock = Clock()
    makers = {"perf": refused, "powercap": lambda: Counter(clock)}
    found = cpu_interfaces(makers, clock, clock.sleep)
    assert [one.meter for one in found] == [None, "made up"]
    assert found[1].tick_seconds == pytest.approx(0.001, rel=0.02)
    assert found[1].watts == pytest.approx(50, rel=0.01)
    assert cpu_rows(found)[0].meaning == "perf events may not be opened"
    assert cpu_verdict(found).startswith("joules: counted by powercap")


def test_powercap_files_are_read_as_the_meter_reads_them(tmp_path):
    powercap = FakePowercap(tmp_path / "zones", Clock())
    powercap.add("intel-rapl:0", "package-0", watts=60.0)

    def make():
        return energy.RaplMeter(powercap.root, powercap.clock)

    def coarse(seconds):  # as each step writes files
        powercap.sleep(100 * seconds)

    (found,) = cpu_interfaces({"powercap": make}, powercap.clock, coarse)
    assert found.watts == pytest.approx(60, rel=0.001)
    assert found.tick_seconds is None and "below two polls, of 10 ms each" in found.reason


def test_a_counter_that_hardly_moves_has_no_tick():
    clock = Clock()
    (found,) = cpu_interfaces({"perf": lambda: Counter(clock, tick=0.3)}, clock, clock.sleep)
    assert found.tick_seconds is None and "changed 3 times in 1 s" in found.reason


def test_a_cpu_without_counters_is_no_failure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sensor, "INTERFACES", {"perf": refused, "powercap": refused})
    file = tmp_path / "cpu.json"
    assert command.main(["sensor", "--device", "cpu", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.count("perf events may not be opened") == 2
    assert "joules: unavailable by either interface" in out
    assert json.loads(file.read_text())["meter"] is None


def test_a_file_that_cannot_be_written_is_said_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        command.main(["sensor", "--device", "cpu", "--json", str(tmp_path / "file" / "x.json")])
    assert end.value.code == 2
    assert "argument --json: cannot write" in capsys.readouterr().err


def test_the_json_object_is_the_profile_and_more():
    found = gpu_sensor(simulated(), LOAD)
    assert replace(found, wave=None).json()["coverage_test"] is None
    assert found.json().items() >= {"agrees": True, "coverage": "unknown"}.items()
