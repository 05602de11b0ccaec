"""energy: joules from a fake NVML and a fake powercap tree, and the reason where there are none."""

import time
from types import SimpleNamespace

import pytest
import torch

from green_kernels import energy
from green_kernels.energy import NvmlMeter, RaplMeter, Unavailable, measure


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class FakeNvml:
    """A pynvml with boards that draw `watts` and publish their counter every 100 ms."""

    NVML_ERROR_NOT_SUPPORTED, NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_GPU_IS_LOST = 3, 9, 15
    NVML_ERROR_NOT_FOUND = 6
    NVML_DEVICE_MIG_ENABLE = 1

    class NVMLError(Exception):
        def __init__(self, value):
            super().__init__(f"error {value}")
            self.value = value

    def __init__(self, clock, watts=300.0, boards=("GPU-aaaa", "GPU-bbbb")):
        self.clock, self.watts, self.boards = clock, watts, boards
        self.errors = {}  # function -> error code
        self.mig = 0
        self.offset = 0
        self.frozen = False

    def _call(self, function):
        if function in self.errors:
            raise self.NVMLError(self.errors[function])

    def nvmlInit(self):
        self._call("init")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in self.boards:
            raise self.NVMLError(self.NVML_ERROR_NOT_FOUND)
        return self.boards.index(uuid)

    def nvmlDeviceGetHandleByPciBusId(self, bus):
        return {"00000000:3b:00.0": 0, "00000000:5e:00.0": 1}[bus]

    def nvmlDeviceGetMigMode(self, board):
        self._call("mig")
        return [self.mig, self.mig]

    def nvmlDeviceGetTotalEnergyConsumption(self, board):
        self._call("energy")
        ticks = 0 if self.frozen else int(self.clock.now * 10 + 1e-6)
        return int(ticks * 100 * self.watts * (board + 1)) + self.offset


def properties(*uuids):
    """CUDA's view: device i is the board with the i-th uuid, as CUDA_VISIBLE_DEVICES would say."""
    return lambda i: SimpleNamespace(
        name="H200", uuid=uuids[i], pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0
    )


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def nvml(clock):
    return FakeNvml(clock)


def nvml_meter(nvml, indices=(0,), uuids=("aaaa", "bbbb")):
    return NvmlMeter(indices, nvml, properties(*uuids))


def window(meter, clock, seconds, within=None):
    with measure("cpu", meters=[meter], clock=clock) as result:
        clock.sleep(seconds)
        if within is not None:
            within()
    return result


def test_nvml_counts_the_joules_of_the_window(nvml, clock):
    result = window(nvml_meter(nvml), clock, 5.0)
    assert result.seconds == pytest.approx(5.0)
    assert result.joules == pytest.approx(1500.0)
    assert result.watts == pytest.approx(300.0)
    assert (result.status, result.reason, result.source) == ("measured", None, "nvml")
    assert result.parts == {"cuda:0 H200": result.joules}


@pytest.mark.parametrize("phase", [0.0, 0.03, 0.099])
@pytest.mark.parametrize("seconds", [2.0, 2.07, 3.3])
def test_nvml_is_off_by_a_tick_at_the_most(nvml, clock, phase, seconds):
    clock.sleep(phase)
    result = window(nvml_meter(nvml), clock, seconds)
    assert abs(result.joules - 300.0 * seconds) <= 300.0 * NvmlMeter.tick + 1e-6


def test_nvml_finds_the_board_that_cuda_means(nvml, clock):
    """CUDA_VISIBLE_DEVICES=GPU-bbbb,GPU-aaaa makes device 0 the second board of NVML."""
    result = window(nvml_meter(nvml, uuids=("GPU-bbbb", "aaaa")), clock, 4.0)
    assert result.joules == pytest.approx(2 * 300.0 * 4)


def test_nvml_falls_back_to_the_bus_id(nvml, clock):
    assert window(nvml_meter(nvml, uuids=("unknown",)), clock, 4.0).joules == pytest.approx(1200.0)


def test_nvml_adds_several_boards(nvml, clock):
    result = window(nvml_meter(nvml, (0, 1)), clock, 4.0)
    assert result.parts == pytest.approx({"cuda:0 H200": 1200.0, "cuda:1 H200": 2400.0})
    assert result.joules == pytest.approx(3600.0)


def test_nvml_refuses_mig(nvml):
    nvml.mig = 1
    with pytest.raises(Unavailable, match="MIG mode"):
        nvml_meter(nvml)


@pytest.mark.parametrize(
    "function, code, message",
    [
        ("init", FakeNvml.NVML_ERROR_DRIVER_NOT_LOADED, "NVML: error 9"),
        ("mig", FakeNvml.NVML_ERROR_GPU_IS_LOST, "NVML: error 15"),
        ("energy", FakeNvml.NVML_ERROR_NOT_SUPPORTED, "no total-energy counter"),
        ("energy", FakeNvml.NVML_ERROR_GPU_IS_LOST, "cannot read the energy counter of cuda:0"),
    ],
)
def test_nvml_errors_become_reasons(nvml, function, code, message):
    nvml.errors[function] = code
    with pytest.raises(Unavailable, match=message):
        nvml_meter(nvml)


def test_a_board_without_mig_is_measured(nvml, clock):
    nvml.errors["mig"] = FakeNvml.NVML_ERROR_NOT_SUPPORTED
    assert window(nvml_meter(nvml), clock, 3.0).status == "measured"


def refused(result, reason):
    assert (result.status, result.joules, result.source) == ("unavailable", None, None)
    assert reason in result.reason


def test_a_window_of_few_ticks_is_refused(nvml, clock):
    result = window(nvml_meter(nvml), clock, 1.9)
    refused(result, "20 ticks need 2 s")
    assert result.seconds == pytest.approx(1.9)  # time needs no meter


def test_a_counter_that_stands_still_is_refused(nvml, clock):
    nvml.frozen = True
    refused(window(nvml_meter(nvml), clock, 5.0), "stood still for 5 s")


def test_a_counter_that_is_reset_is_refused(nvml, clock):
    def reset():
        nvml.offset = -10_000_000

    refused(window(nvml_meter(nvml), clock, 5.0, reset), "went back")


def test_an_error_within_the_window_is_the_reason(nvml, clock):
    def lose():
        nvml.errors["energy"] = FakeNvml.NVML_ERROR_GPU_IS_LOST

    refused(window(nvml_meter(nvml), clock, 5.0, lose), "cannot read the energy counter")


def test_an_exception_in_the_block_passes(nvml, clock):
    with pytest.raises(KeyError), measure("cpu", meters=[nvml_meter(nvml)], clock=clock) as result:
        raise KeyError
    refused(result, "raised")


class Powercap:
    """A powercap tree; zones are folders as the kernel's links would show them."""

    def __init__(self, root):
        self.root = root

    def zone(self, folder, name, microjoules, largest=262_143_328_850):
        zone = self.root / folder
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"{name}\n")
        (zone / "max_energy_range_uj").write_text(f"{largest}\n")
        self.set(folder, microjoules)

    def set(self, folder, microjoules):
        (self.root / folder / "energy_uj").write_text(f"{microjoules}\n")


@pytest.fixture
def powercap(tmp_path):
    tree = Powercap(tmp_path / "powercap")
    tree.zone("intel-rapl:0", "package-0", 1_000_000)
    return tree


def test_rapl_counts_the_joules_of_the_window(powercap, clock):
    meter = RaplMeter(powercap.root, clock)
    result = window(meter, clock, 2.0, lambda: powercap.set("intel-rapl:0", 91_000_000))
    assert result.joules == pytest.approx(90.0)
    assert (result.status, result.source) == ("measured", "rapl")


def test_rapl_adds_packages_and_only_packages(powercap, clock):
    powercap.zone("intel-rapl:1", "package-1", 50_000_000)
    powercap.zone("intel-rapl:2", "psys", 7_000_000)  # contains the packages
    powercap.zone("intel-rapl:0:0", "core", 500_000)
    powercap.zone("intel-rapl:0:1", "dram", 600_000)
    powercap.zone("intel-rapl-mmio:0", "package-0", 1_000_000)

    def run():
        powercap.set("intel-rapl:0", 41_000_000)
        powercap.set("intel-rapl:1", 80_000_000)
        powercap.set("intel-rapl:2", 900_000_000)
        powercap.set("intel-rapl:0:0", 30_500_000)

    result = window(RaplMeter(powercap.root, clock), clock, 2.0, run)
    assert result.parts == pytest.approx({"package-0": 40.0, "package-1": 30.0})
    assert result.joules == pytest.approx(70.0)


def test_rapl_counts_a_mirrored_counter_once(powercap, clock):
    powercap.zone("intel-rapl:1", "package-0-die-1", 1_000_000)
    assert list(RaplMeter(powercap.root, clock).zones) == ["package-0"]


def test_rapl_counts_a_wrap(tmp_path, clock):
    powercap = Powercap(tmp_path)
    powercap.zone("intel-rapl:0", "package-0", 262_000_000, largest=262_143_328)
    meter = RaplMeter(tmp_path, clock)
    result = window(meter, clock, 2.0, lambda: powercap.set("intel-rapl:0", 10_000_000))
    assert result.joules == pytest.approx(10.143328)
    assert meter.read_within < 262.143328 / 1000  # so that no second wrap goes unseen


def test_a_counter_that_wraps_soon_is_read_in_between():
    class Wrapping:
        name, tick, read_within, reads = "rapl", 0.0, 0.001, 0

        def read(self):
            self.reads += 1
            return {"package-0": float(self.reads)}

    meter = Wrapping()
    with measure("cpu", meters=[meter]) as result:
        while meter.reads < 5:  # by another thread; without one this never ends
            time.sleep(0.001)
    assert result.joules >= 5


def test_rapl_refuses_a_counter_that_was_reset(powercap, clock):
    """A fall is a wrap only if the package could have drawn as much in that time."""
    result = window(
        RaplMeter(powercap.root, clock), clock, 2.0, lambda: powercap.set("intel-rapl:0", 5)
    )
    refused(result, "it was reset within the window")


def test_rapl_says_what_to_do_when_reading_is_not_permitted(powercap, clock, monkeypatch):
    read_text = type(powercap.root).read_text

    def denied(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(type(powercap.root), "read_text", denied)  # root would not be denied
    with pytest.raises(Unavailable, match="readable by root only.*sudo chmod a[+]r"):
        RaplMeter(powercap.root, clock)


def test_rapl_without_zones_says_so(tmp_path):
    with pytest.raises(Unavailable, match="no RAPL package zone .*virtual machine"):
        RaplMeter(tmp_path)


def test_rapl_refuses_what_is_no_number(powercap, clock):
    powercap.set("intel-rapl:0", "many")
    with pytest.raises(Unavailable, match="'many', not microjoules"):
        RaplMeter(powercap.root, clock)


def test_both_meters_are_named_and_added(nvml, powercap, clock):
    meters = [nvml_meter(nvml), RaplMeter(powercap.root, clock)]
    with measure("cpu", meters=meters, clock=clock) as result:
        clock.sleep(3.0)
        powercap.set("intel-rapl:0", 31_000_000)
    assert result.source == "nvml+rapl"
    assert result.joules == pytest.approx(3 * 300.0 + 30.0)


def test_one_unknown_part_makes_the_total_unknown(nvml, powercap, clock):
    """Joules of the GPU alone would pass for those of both."""
    meters = [nvml_meter(nvml), RaplMeter(powercap.root, clock)]
    with measure("cpu", meters=meters, clock=clock) as result:
        clock.sleep(3.0)  # and the package's counter stands still
    refused(result, "the counter of package-0 stood still")


def test_a_machine_without_meters_is_timed_all_the_same():
    with measure("meta") as result:
        torch.ones(8).sum()
    refused(result, "no energy meter for device meta")
    assert result.seconds > 0


def test_this_machine_measures_or_says_why():
    """Whatever it has: a figure with a source, or none with a reason."""
    with measure() as result:
        torch.ones(64, 64).mm(torch.ones(64, 64))
    assert (result.joules is None) == (result.status == "unavailable")
    assert (result.joules is None) == (result.reason is not None)
    assert energy.measure is measure


def test_no_device_is_not_zero_joules(clock):
    with pytest.raises(Unavailable, match="no device was given"):
        energy.find_meters([])
    with measure(device=[], clock=clock) as result:
        clock.sleep(5.0)
    assert (result.joules, result.status) == (None, "unavailable")
    assert (result.seconds, result.reason) == (5.0, "no device was given")


def test_no_meter_is_not_zero_joules(clock):
    with measure("cpu", meters=[], clock=clock) as result:
        clock.sleep(5.0)
    assert (result.joules, result.status, result.reason) == (
        None,
        "unavailable",
        "no meter was given",
    )


def test_a_meter_without_counters_is_not_zero_joules(nvml, clock):
    result = window(nvml_meter(nvml, indices=()), clock, 5.0)
    assert (result.joules, result.reason) == (None, "nvml has no counter to read")
