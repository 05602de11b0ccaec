"""nvml: what a simulated board draws against what Board and NvmlMeter say of it."""

import random
import subprocess
import sys
from types import SimpleNamespace

import pynvml
import pytest
from fakes.clock import Clock
from fakes.nvml import FakeBoard, FakeNvml

from green_kernels.energy import nvml as energy_nvml
from green_kernels.energy.meter import Unavailable
from green_kernels.energy.nvml import NvmlMeter, boards

NOT_SUPPORTED, LOST = pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_GPU_IS_LOST
ENERGY, INSTANT, AVERAGE = 83, 186, 185


def machine(*fakes, clock=None):
    """A clock, the NVML of the boards, and the boards as the library sees them."""
    clock = clock or Clock()
    nvml = FakeNvml(clock, list(fakes) or None)
    nvml.nvmlInit()
    return clock, nvml, boards(nvml)


@pytest.mark.parametrize("phase", [0.0, 0.03, 0.099])
@pytest.mark.parametrize("seconds", [2.0, 2.07, 3.3])
def test_the_meter_is_off_by_a_tick_of_joules_at_the_most(phase, seconds):
    clock, _, (board,) = machine(FakeBoard(idle_watts=300.0, phase=phase))
    meter = NvmlMeter(board)
    before = meter.read()
    clock.sleep(seconds)
    assert abs(meter.read() - before - 300.0 * seconds) <= 300.0 * meter.tick + 1e-2


def test_the_meter_names_its_device_and_takes_the_tick_of_a_profile():
    _, _, (board,) = machine()
    meter = NvmlMeter(board, "cuda:3", tick=0.02)
    assert (meter.name, meter.device, meter.tick, meter.read_within) == (
        "nvml",
        "cuda:3",
        0.02,
        None,
    )


def test_boards_come_in_the_order_of_nvml_and_keep_their_own_joules():
    clock, _, (first, second) = machine(
        FakeBoard("GPU-bbbb", idle_watts=100.0), FakeBoard("GPU-aaaa", idle_watts=200.0)
    )
    assert [first.uuid, second.uuid] == ["GPU-bbbb", "GPU-aaaa"]
    before = first.joules(), second.joules()
    clock.sleep(10.0)
    assert first.joules() - before[0] == pytest.approx(1000.0)
    assert second.joules() - before[1] == pytest.approx(2000.0)


def test_a_board_of_another_container_is_left_out():
    clock = Clock()
    nvml = FakeNvml(clock, [FakeBoard("GPU-aaaa"), FakeBoard("GPU-bbbb")])
    nvml.nvmlInit()
    nvml.fail("nvmlDeviceGetHandleByIndex", pynvml.NVML_ERROR_NO_PERMISSION, times=1)
    assert [board.uuid for board in boards(nvml)] == ["GPU-bbbb"]


def test_boards_that_cannot_be_listed_are_unavailable():
    nvml = FakeNvml(Clock())
    nvml.nvmlInit()
    nvml.fail("nvmlDeviceGetHandleByIndex", LOST)
    with pytest.raises(Unavailable, match="cannot list the boards: GPU is lost"):
        boards(nvml)


def test_a_sample_is_one_call_with_all_fields():
    clock, nvml, (board,) = machine()
    nvml.boards[0].set_power(500.0)
    nvml.boards[0].throttle("power cap", 0.25)
    nvml.boards[0].throttle("thermal (hardware)", 0.5)
    clock.sleep(2.0)
    nvml.calls.clear()
    sample = board.sample()
    assert nvml.calls == {"nvmlDeviceGetFieldValues": 1}
    assert sample.timestamp == pytest.approx(clock())
    assert sample.joules == pytest.approx(1_001_000.0)
    assert (sample.instant_watts, sample.average_watts) == (500.0, 500.0)
    assert sample.throttled == pytest.approx(
        {
            "power cap": 0.5,
            "thermal": 0.0,
            "thermal (software)": 0.0,
            "thermal (hardware)": 1.0,
            "power brake": 0.0,
        }
    )
    assert sample.errors == {}


def test_instant_and_average_power_are_kept_apart():
    clock, nvml, (board,) = machine(FakeBoard(idle_watts=100.0))
    nvml.boards[0].set_power(500.0)
    clock.sleep(0.5)
    sample = board.sample()
    assert sample.instant_watts == pytest.approx(500.0)
    assert sample.average_watts == pytest.approx(300.0)


@pytest.mark.parametrize(
    "field, quantity, attribute",
    [
        (ENERGY, "energy", "joules"),
        (INSTANT, "instant power", "instant_watts"),
        (AVERAGE, "average power", "average_watts"),
    ],
)
def test_a_field_that_fails_is_none_with_its_reason_and_others_stay(field, quantity, attribute):
    _, nvml, (board,) = machine()
    nvml.boards[0].field_errors[field] = NOT_SUPPORTED
    sample = board.sample()
    assert getattr(sample, attribute) is None
    assert sample.errors == {quantity: "Not Supported"}
    values = (sample.joules, sample.instant_watts, sample.average_watts)
    assert sum(value is None for value in values) == 1


def test_a_throttle_counter_that_fails_is_left_out_with_its_reason():
    _, nvml, (board,) = machine()
    nvml.boards[0].field_errors[269] = NOT_SUPPORTED
    sample = board.sample()
    assert "thermal (software)" not in sample.throttled
    assert sample.errors == {"thermal (software)": "Not Supported"}


@pytest.mark.parametrize(
    "kind, member, value",
    [("DOUBLE", "dVal", 2500.0), ("UNSIGNED_LONG", "ulVal", 2500), ("SIGNED_INT", "siVal", 2500)],
)
def test_a_value_is_read_as_the_type_that_nvml_names(kind, member, value, monkeypatch):
    _, nvml, (board,) = machine()
    kind = getattr(pynvml, f"NVML_VALUE_TYPE_{kind}")
    monkeypatch.setattr(nvml.boards[0], "field", lambda field: (kind, member, value))
    assert board.joules() == pytest.approx(2.5)


def test_a_type_that_is_not_known_is_no_value(monkeypatch):
    _, nvml, (board,) = machine()
    monkeypatch.setattr(nvml.boards[0], "field", lambda field: (99, "ullVal", 2500))
    sample = board.sample()
    assert sample.joules is None and "value type 99" in sample.errors["energy"]


def test_field_ids_are_those_of_pynvml():
    names = {
        "energy": "TOTAL_ENERGY_CONSUMPTION",
        "instant power": "POWER_INSTANT",
        "average power": "POWER_AVERAGE",
        "power cap": "CLOCKS_EVENT_REASON_SW_POWER_CAP",
        "thermal": "PERF_POLICY_THERMAL",
        "thermal (software)": "CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
        "thermal (hardware)": "CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
        "power brake": "CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
    }
    assert {quantity: id for quantity, (id, _) in energy_nvml.FIELDS.items()} == {
        quantity: getattr(pynvml, f"NVML_FI_DEV_{name}") for quantity, name in names.items()
    }


def test_mig_is_refused_and_the_board_is_named():
    _, _, (board,) = machine(FakeBoard("GPU-cccc", mig=1))
    with pytest.raises(Unavailable, match="GPU-cccc.* is in MIG mode: .*not of this slice"):
        NvmlMeter(board)


def test_a_board_without_mig_is_measured():
    _, _, (board,) = machine(FakeBoard(mig=None))
    assert NvmlMeter(board).read() > 0


def test_a_board_without_a_counter_is_refused_at_once():
    fake = FakeBoard()
    fake.field_errors[ENERGY] = NOT_SUPPORTED
    _, _, (board,) = machine(fake)
    with pytest.raises(Unavailable, match="no total-energy counter; Volta and newer"):
        NvmlMeter(board)


def test_a_counter_that_fails_otherwise_says_why():
    _, nvml, (board,) = machine()
    meter = NvmlMeter(board)
    nvml.boards[0].field_errors[ENERGY] = pynvml.NVML_ERROR_TIMEOUT
    with pytest.raises(Unavailable, match="GPU-aaaa.*energy counter: Timeout"):
        meter.read()


@pytest.mark.parametrize(
    "method, function",
    [
        ("sample", "nvmlDeviceGetFieldValues"),
        ("joules", "nvmlDeviceGetFieldValues"),
        ("temperature", "nvmlDeviceGetTemperature"),
        ("sm_mhz", "nvmlDeviceGetClockInfo"),
        ("event_reasons", "nvmlDeviceGetCurrentClocksEventReasons"),
        ("processes", "nvmlDeviceGetComputeRunningProcesses"),
        ("power_limits", "nvmlDeviceGetPowerManagementLimitConstraints"),
        ("refuse_mig", "nvmlDeviceGetMigMode"),
        ("facts", "nvmlDeviceGetEnforcedPowerLimit"),
    ],
)
def test_an_error_names_the_board_and_the_call(method, function):
    _, nvml, (board,) = machine()
    nvml.fail(function, LOST)
    with pytest.raises(Unavailable, match=f"GPU-aaaa.*{function} failed: GPU is lost"):
        getattr(board, method)()


def test_a_board_that_is_lost_fails_from_then_on():
    clock, nvml, (board,) = machine()
    meter = NvmlMeter(board)
    nvml.boards[0].lose(at=clock() + 1.0)
    meter.read()
    clock.sleep(1.0)
    with pytest.raises(Unavailable, match="GPU is lost"):
        meter.read()


def test_state_is_what_the_board_has():
    clock, nvml, (board,) = machine()
    fake = nvml.boards[0]
    fake.set_power(500.0)
    fake.throttle("thermal (software)", 0.1)
    fake.pids = [77, 5]
    clock.sleep(200.0)
    assert board.temperature() == 60  # 30 C + 0.06 C/W * 500 W
    assert board.sm_mhz() == 1980
    assert board.event_reasons() == {"thermal (software)"}
    assert board.processes() == [5, 77]


def test_facts_are_complete_and_what_the_board_lacks_is_none():
    _, nvml, (board,) = machine()
    facts = board.facts()
    assert facts == {
        "uuid": nvml.boards[0].uuid,
        "name": "NVIDIA H200",
        "driver": "580.65.06",
        "vbios": "96.00.A5.00.01",
        "part_number": "692-2G520-0200-000",
        "ecc": True,
        "persistence": True,
        "power_limit_watts": 700.0,
        "default_power_limit_watts": 700.0,
        "least_power_limit_watts": 200.0,
        "most_power_limit_watts": 700.0,
        "max_sm_mhz": 1980,
        "locked_sm_mhz": None,
    }
    nvml.boards[0].errors |= {
        "nvmlDeviceGetEccMode": NOT_SUPPORTED,
        "nvmlDeviceGetPowerManagementLimitConstraints": NOT_SUPPORTED,
    }
    lacking = board.facts()
    missing = {"ecc", "least_power_limit_watts", "most_power_limit_watts"}
    assert {name for name in facts if lacking[name] != facts[name]} == missing
    assert all(lacking[name] is None for name in missing)


def test_load_without_pynvml_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Unavailable, match="pip install nvidia-ml-py"):
        energy_nvml.load()


def test_load_refuses_a_pynvml_that_is_not_nvidias(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=lambda: None))
    with pytest.raises(Unavailable, match="not NVIDIA's"):
        energy_nvml.load()


def test_load_initialises_or_gives_the_reason(monkeypatch):
    nvml = FakeNvml(Clock())
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert energy_nvml.load() is nvml and nvml.initialised
    nvml.fail("nvmlInit", pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    with pytest.raises(Unavailable, match="initialised: Driver Not Loaded"):
        energy_nvml.load()


def test_the_module_alone_imports_neither_torch_nor_pynvml():
    code = (
        "import importlib.util, sys, types\n"
        f"root = {str(energy_nvml.__file__.rpartition('/')[0])!r}\n"
        "for name, path in (('green_kernels', []), ('green_kernels.energy', [root])):\n"
        "    sys.modules[name] = package = types.ModuleType(name)\n"
        "    package.__path__ = path\n"
        "import green_kernels.energy.nvml\n"
        "assert not {'torch', 'pynvml'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def integral(draw, begin, end, steps=20_000):
    width = (end - begin) / steps
    return sum(draw.plain_watts(begin + (i + 0.5) * width) for i in range(steps)) * width


@pytest.mark.parametrize("ramp", [0.0, 0.08, 3.0])
def test_the_simulated_integral_is_that_of_the_power(ramp):
    clock, nvml, _ = machine(FakeBoard(ramp=ramp))
    fake, begin, rng = nvml.boards[0], clock(), random.Random(0)
    for _ in range(8):
        fake.set_power(rng.uniform(80, 600))
        clock.sleep(rng.uniform(0.01, 1.0))
    assert fake.true_joules() == pytest.approx(integral(fake.draw, begin, clock()), rel=1e-3)


@pytest.mark.parametrize("ramp", [0.0, 0.03, 2.0])
@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_the_simulated_boxcar_counter_is_the_sum_over_its_ticks(ramp, noise):
    """Whatever is read in between, and by closed form or tick by tick."""
    clock, nvml, (board,) = machine(FakeBoard(coverage=0.25, phase=0.04, ramp=ramp, noise=noise))
    fake, rng = nvml.boards[0], random.Random(1)
    for step in range(40):
        fake.set_power(rng.uniform(80, 600))
        clock.sleep(rng.choice([0.013, 0.11, 2.7]))
        if step % 3 == 0:
            board.joules()
    ticks = range(fake.first + 1, int((clock() - 0.04) / 0.1 + 1e-6) + 1)
    expected = sum(fake.draw.mean(0.04 + k * 0.1, 0.025) * 0.1 for k in ticks)
    assert board.joules() - 1e6 == pytest.approx(expected, rel=1e-9, abs=2e-3)


def test_the_simulated_temperature_follows_the_power():
    clock, nvml, _ = machine(FakeBoard(ramp=1.5))
    fake = nvml.boards[0]
    fake.set_power(500.0)
    celsius = fake.draw.celsius(clock())
    for _ in range(20_000):  # Euler's method
        watts = fake.draw.plain_watts(clock())
        celsius += 0.001 * (30.0 + 0.06 * watts - celsius) / 20.0
        clock.sleep(0.001)
    assert fake.draw.celsius(clock()) == pytest.approx(celsius, abs=0.01)


def test_the_simulated_counter_can_be_reset_frozen_and_turned_back():
    clock, nvml, (board,) = machine(FakeBoard(idle_watts=100.0))
    fake = nvml.boards[0]
    fake.reset_counter()
    clock.sleep(1.0)
    assert board.joules() == pytest.approx(100.0)
    fake.turn_counter_back(30.0)
    assert board.joules() == pytest.approx(70.0)
    fake.freeze_counter()
    clock.sleep(1.0)
    assert board.joules() == pytest.approx(70.0)
    assert fake.true_joules() == pytest.approx(200.0)


def test_the_simulated_noise_is_drawn_power_and_the_counter_sees_it():
    clock, nvml, (board,) = machine(FakeBoard(idle_watts=300.0, noise=5.0, seed=3))
    before = board.joules()
    clock.sleep(10.0)
    joules = nvml.boards[0].true_joules()
    assert abs(joules - 3000.0) > 1.0
    assert board.joules() - before == pytest.approx(joules, abs=2e-3)


def test_the_simulated_limit_caps_the_power_and_says_so():
    clock, nvml, (board,) = machine()
    nvml.boards[0].set_power(650.0)
    nvml.nvmlDeviceSetPowerManagementLimit(nvml.boards[0], 400_000)
    clock.sleep(1.0)
    assert board.sample().instant_watts == 400.0
    assert "power cap" in board.event_reasons()
