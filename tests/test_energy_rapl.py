"""RAPL by powercap and by perf: known watts in, known joules out, and the reason for none."""

import errno
import os
import struct
import threading
import time
from pathlib import Path

import pytest
from fakes.clock import Clock
from fakes.powercap import FakePowercap

from green_kernels.energy import PerfRaplMeter, RaplMeter, Unavailable, cpu_meter, measure, perf


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def powercap(tmp_path, clock):
    tree = FakePowercap(tmp_path / "powercap", clock)
    tree.add("intel-rapl:0", "package-0", watts=45.0)
    return tree


def window(powercap, seconds, meter=None):
    meter = RaplMeter(powercap.root, powercap.clock) if meter is None else meter
    with measure(meters=[meter], clock=powercap.clock) as result:
        powercap.sleep(seconds)
    return result


def test_powercap_counts_the_joules_of_the_window(powercap):
    result = window(powercap, 2.0)
    assert result.joules == {"cpu": pytest.approx(90.0)}
    assert (result.status, result.sources) == ("measured", {"cpu": "rapl"})


def test_powercap_adds_packages_and_only_packages(powercap):
    powercap.add("intel-rapl:1", "package-1", watts=30.0, joules=50.0)
    powercap.add("intel-rapl:2", "psys", watts=200.0, joules=7.0)  # contains the packages
    powercap.add("intel-rapl:0:0", "core", watts=20.0)
    powercap.add("intel-rapl:0:1", "dram", watts=10.0)
    powercap.add("intel-rapl-mmio:0", "package-0", watts=45.0)
    assert window(powercap, 2.0).total == pytest.approx(150.0)


def test_powercap_counts_a_mirrored_counter_once(powercap):
    powercap.add("intel-rapl:1", "package-0-die-1", mirrors="intel-rapl:0")
    assert list(RaplMeter(powercap.root).zones) == ["package-0"]
    assert window(powercap, 2.0).total == pytest.approx(90.0)


def test_powercap_counts_power_that_changes_within_the_window(powercap, clock):
    with measure(meters=[RaplMeter(powercap.root, clock)], clock=clock) as result:
        powercap.sleep(1.0)
        powercap.set_power("intel-rapl:0", 100.0)
        powercap.sleep(2.0)
    assert result.total == pytest.approx(245.0)


def test_powercap_counts_a_wrap(tmp_path, clock):
    powercap = FakePowercap(tmp_path, clock)
    powercap.add("intel-rapl:0", "package-0", watts=5.0, joules=262.0, largest=262_143_328)
    meter = RaplMeter(tmp_path, clock)
    assert window(powercap, 0.1, meter).total == pytest.approx(0.5)
    assert meter.read_within < 262.143328 / 1000  # so that no second wrap goes unseen


def test_a_meter_read_in_time_counts_every_wrap(tmp_path, clock):
    powercap = FakePowercap(tmp_path, clock)
    powercap.add("intel-rapl:0", "package-0", watts=900.0, largest=100_000_000)
    meter = RaplMeter(tmp_path, clock)
    for _ in range(40):
        powercap.sleep(meter.read_within)
        last = meter.read()
    assert last == pytest.approx(900.0 * 40 * meter.read_within)
    assert last > 100


def test_a_meter_not_read_in_time_refuses(tmp_path, clock):
    """Between two readings it may have wrapped twice, and joules would be too few."""
    powercap = FakePowercap(tmp_path, clock)
    powercap.add("intel-rapl:0", "package-0", watts=900.0, largest=100_000_000)
    meter = RaplMeter(tmp_path, clock)
    powercap.sleep(0.2)
    with pytest.raises(Unavailable, match="not read for 0.2 s, and may have wrapped more"):
        meter.read()


def test_what_passed_between_two_windows_is_of_no_concern(tmp_path, clock):
    """One meter serves many windows; it may wrap, or be reset, while none is open."""
    powercap = FakePowercap(tmp_path, clock)
    powercap.add("intel-rapl:0", "package-0", watts=90.0, largest=100_000_000)
    meter = RaplMeter(tmp_path, clock)
    powercap.sleep(1000.0)
    powercap.set_counter("intel-rapl:0", 3.0)
    assert window(powercap, 0.05, meter).total == pytest.approx(4.5)


def test_windows_on_one_meter_count_wraps_each_for_itself(tmp_path, clock):
    powercap = FakePowercap(tmp_path, clock)
    powercap.add("intel-rapl:0", "package-0", watts=900.0, joules=80.0, largest=100_000_000)
    meter = RaplMeter(tmp_path, clock)
    with measure(meters=[meter], clock=clock) as outer:
        powercap.sleep(0.03)
        with measure(meters=[meter], clock=clock) as inner:
            powercap.sleep(0.03)
    assert inner.total == pytest.approx(27.0)
    assert outer.total == pytest.approx(54.0)


def test_powercap_refuses_a_counter_that_was_reset(powercap, clock):
    """A fall is a wrap only if the package could have drawn as much in that time."""
    with measure(meters=[RaplMeter(powercap.root, clock)], clock=clock) as result:
        powercap.sleep(2.0)
        powercap.set_counter("intel-rapl:0", 5e-6)
    assert result.joules == {"cpu": None}
    assert "it was reset within the window" in result.status


def test_powercap_refuses_a_small_counter_that_was_reset(tmp_path, clock):
    """From 100 J to 0 within 0.1 s: as a wrap at 1000 J these would be 9 kW."""
    powercap = FakePowercap(tmp_path, clock)
    powercap.add("intel-rapl:0", "package-0", joules=100.0, largest=1_000_000_000)
    meter = RaplMeter(tmp_path, clock)
    powercap.sleep(0.1)
    powercap.set_counter("intel-rapl:0", 0.0)
    with pytest.raises(Unavailable, match="it was reset within the window"):
        meter.read()


class WatchedLock:
    """A lock that says when another thread than the first comes to it."""

    def __init__(self, came):
        self.lock, self.first, self.came = threading.Lock(), threading.get_ident(), came

    def __enter__(self):
        if threading.get_ident() != self.first:
            self.came.set()
        self.lock.acquire()

    def __exit__(self, *error):
        self.lock.release()


def test_two_threads_that_read_at_once_count_a_wrap_once(tmp_path, clock, monkeypatch):
    """The first has its text, when the second reads after the wrap, if it is let."""
    powercap = FakePowercap(tmp_path, clock)
    powercap.add("intel-rapl:0", "package-0", watts=400.0, joules=90.0, largest=100_000_000)
    meter = RaplMeter(tmp_path, clock)
    came = threading.Event()  # the second thread to the lock, or to its end
    meter.lock = WatchedLock(came)

    def second():
        powercap.sleep(0.02)
        meter.read()
        came.set()

    other = threading.Thread(target=second)
    read_text = Path.read_text

    def read_and_yield(path, *args, **kwargs):
        text = read_text(path, *args, **kwargs)
        if other.ident is None:
            other.start()
            assert came.wait(60)
        return text

    powercap.sleep(0.01)
    monkeypatch.setattr(Path, "read_text", read_and_yield)
    assert meter.read() == pytest.approx(4.0)
    other.join()
    assert meter.read() == pytest.approx(12.0)


def test_powercap_says_what_to_do_when_reading_is_not_permitted(powercap, monkeypatch):
    powercap.deny(monkeypatch)
    with pytest.raises(Unavailable, match="readable by root only.*sudo chmod a[+]r"):
        RaplMeter(powercap.root)


def test_powercap_denied_within_the_window_is_the_reason(powercap, monkeypatch):
    with measure(meters=[RaplMeter(powercap.root, powercap.clock)], clock=powercap.clock) as result:
        powercap.sleep(2.0)
        powercap.deny(monkeypatch)
    assert "readable by root only" in result.reasons["cpu"]


def test_powercap_without_zones_says_so(tmp_path):
    with pytest.raises(Unavailable, match="no RAPL package zone .*virtual machine"):
        RaplMeter(tmp_path)


def test_powercap_refuses_what_is_no_number(powercap):
    (powercap.root / "intel-rapl:0" / "energy_uj").write_text("many\n")
    with pytest.raises(Unavailable, match="'many', not microjoules"):
        RaplMeter(powercap.root)


SCALE = 2.0**-32


class FakeEvents:
    """A perf event source with packages of known watts. Counts are read from real descriptors."""

    def __init__(self, root, clock, watts):
        self.clock, self.watts, self.opened, self.start = clock, watts, [], clock()
        self.folder = root / "power"
        (self.folder / "events").mkdir(parents=True)
        self.write("type", "32")
        self.write("cpumask", ",".join(map(str, watts)))
        self.write("events/energy-pkg", "event=0x02")
        self.write("events/energy-pkg.scale", "2.3283064365386962890625e-10")
        self.write("events/energy-pkg.unit", "Joules")
        self.files = {}

    def write(self, name, text):
        (self.folder / name).write_text(f"{text}\n")

    def open(self, kind, config, pid, cpu):
        self.opened.append((kind, config, pid, cpu))
        self.files[cpu] = os.memfd_create(f"package of cpu {cpu}")
        return self.files[cpu]

    def meter(self):
        return PerfRaplMeter(self.folder.parent, self.open)


@pytest.fixture
def events(tmp_path, clock, monkeypatch):
    source = FakeEvents(tmp_path / "devices", clock, {0: 40.0, 18: 25.0})
    read = os.read

    def count(descriptor, size):
        for cpu, file in source.files.items():
            if file == descriptor:
                joules = source.watts[cpu] * (clock() - source.start)
                return struct.pack("=Q", int(joules / SCALE))
        return read(descriptor, size)

    monkeypatch.setattr(perf.os, "read", count)
    return source


def test_perf_adds_the_packages(events, clock):
    with measure(meters=[events.meter()], clock=clock) as result:
        clock.sleep(2.0)
    assert result.joules == {"cpu": pytest.approx(130.0)}
    assert result.sources == {"cpu": "rapl (perf)"}
    assert events.opened == [(32, 2, -1, 0), (32, 2, -1, 18)]


def test_perf_needs_no_thread_and_does_not_wrap(events, clock):
    """What wraps in the powercap files after minutes counts on here."""
    meter = events.meter()
    assert meter.read_within is None
    with measure(meters=[meter], clock=clock) as result:
        clock.sleep(1e6)
    assert result.total == pytest.approx(65e6)


def test_perf_reads_a_range_of_cpus(events):
    events.write("cpumask", "0-1,18")
    events.watts[1] = 1.0
    events.meter()
    assert [cpu for *_, cpu in events.opened] == [0, 1, 18]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_perf_says_what_to_do_when_opening_is_not_permitted(events, code):
    def denied(*event):
        raise OSError(code, os.strerror(code))

    with pytest.raises(Unavailable, match="perf_event_paranoid <= 0 .* CAP_PERFMON"):
        PerfRaplMeter(events.folder.parent, denied)


@pytest.mark.parametrize(
    "code, reason",
    [(errno.ENODEV, "cannot open the perf event energy-pkg: No such device"), (errno.EPERM, "CAP")],
)
def test_perf_closes_what_it_opened_when_one_fails(events, code, reason):
    def only_one(kind, config, pid, cpu):
        if cpu == 18:
            raise OSError(code, os.strerror(code))
        return events.open(kind, config, pid, cpu)

    with pytest.raises(Unavailable, match=reason):
        PerfRaplMeter(events.folder.parent, only_one)
    with pytest.raises(OSError):
        os.fstat(events.files[0])


@pytest.mark.parametrize(
    "name, text, reason",
    [
        ("events/energy-pkg.unit", "Watts", "counts 'Watts', not Joules"),
        ("events/energy-pkg.scale", "big", "'big', which is not understood"),
        ("events/energy-pkg", "event=0x02,umask=1", "'event=0x02,umask=1', which is not"),
        ("cpumask", "", "'', which is not understood"),
        ("type", "power", "'power', which is not understood"),
    ],
)
def test_perf_refuses_what_it_does_not_understand(events, name, text, reason):
    events.write(name, text)
    with pytest.raises(Unavailable, match=reason):
        events.meter()


def test_perf_without_the_event_says_so(tmp_path):
    with pytest.raises(Unavailable, match="no event energy-pkg in .*power: a virtual machine"):
        PerfRaplMeter(tmp_path)


def test_an_event_in_error_is_not_zero_joules(events, monkeypatch):
    meter = events.meter()
    monkeypatch.setattr(perf.os, "read", lambda descriptor, size: b"")
    with pytest.raises(Unavailable, match="has no count"):
        meter.read()


def test_perf_is_not_known_on_every_machine(monkeypatch):
    monkeypatch.setattr(perf.platform, "machine", lambda: "vax")
    with pytest.raises(Unavailable, match="not known for vax.*x86_64 and aarch64"):
        perf.open_event(1, 0, 0, -1)


def test_the_system_call_counts_on_this_machine():
    """The software event cpu-clock of this process, in nanoseconds: allowed where paranoid is 2."""
    try:
        event = perf.open_event(kind=1, config=0, pid=0, cpu=-1)
    except PermissionError as error:
        pytest.skip(f"the kernel forbids perf events: {error}")
    try:
        first = perf._count(event)
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        assert perf._count(event) - first >= 0.01e9
    finally:
        os.close(event)


def test_the_system_call_reports_the_kernels_error():
    with pytest.raises(OSError) as failure:
        perf.open_event(kind=1, config=10_000, pid=0, cpu=-1)
    assert failure.value.errno in {errno.ENOENT, errno.EINVAL, errno.EACCES, errno.EPERM}


def test_perf_is_preferred(events, powercap, monkeypatch):
    monkeypatch.setattr(perf.PerfRaplMeter.__init__, "__defaults__", (None, events.open))
    assert cpu_meter(powercap.root, events.folder.parent).name == "rapl (perf)"


def test_powercap_is_used_where_perf_is_not_there(powercap, tmp_path):
    assert cpu_meter(powercap.root, tmp_path / "none").name == "rapl"


def test_no_cpu_meter_has_both_reasons(tmp_path):
    with pytest.raises(Unavailable, match="no RAPL package zone .*; and no event energy-pkg in"):
        cpu_meter(tmp_path, tmp_path)
