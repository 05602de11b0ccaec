"""power: the limit and the clock of a simulated board, and that they always come back."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pynvml
import pytest
from fakes.clock import Clock
from fakes.nvml import FakeBoard, FakeNvml

from green_kernels.energy import power
from green_kernels.energy.meter import Unavailable
from green_kernels.energy.nvml import boards
from green_kernels.energy.power import NotPermitted, clocks, power_limit

NO_PERMISSION, NOT_SUPPORTED = pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_SUPPORTED
LOST = pynvml.NVML_ERROR_GPU_IS_LOST
SET_LIMIT, SET_CLOCKS = "nvmlDeviceSetPowerManagementLimit", "nvmlDeviceSetGpuLockedClocks"


class Machine:
    """One simulated board of 200 to 700 W and 210 to 1980 MHz."""

    def __init__(self, **board):
        self.clock = Clock()
        self.fake = FakeBoard(**board)
        self.nvml = FakeNvml(self.clock, [self.fake])
        self.nvml.nvmlInit()
        (self.board,) = boards(self.nvml)

    def limited(self, watts, **options):
        return power_limit(watts, self.board, **options)

    def locked(self, mhz, **options):
        return clocks(mhz, self.board, clock=self.clock, sleep=self.clock.sleep, **options)


@pytest.fixture
def machine():
    handlers = [signal.getsignal(number) for number in power.SIGNALS]
    yield Machine()
    assert power._applied == []
    assert [signal.getsignal(number) for number in power.SIGNALS] == handlers


def test_the_limit_holds_in_the_block_and_then_comes_back(machine):
    machine.fake.set_power(650.0)
    with machine.limited(400) as change:
        machine.clock.sleep(1.0)
        assert machine.board.sample().instant_watts == 400.0
        assert machine.board.power_limits().requested == 400.0
    assert machine.fake.limit == 700.0
    assert (change.what, change.old, change.new, change.unit) == ("power limit", 700.0, 400, "W")
    assert str(change).startswith("power limit of NVIDIA H200 (GPU-aaaa")
    assert str(change).endswith("700 W -> 400 W")


def test_what_comes_back_is_what_was_set_and_not_the_default(machine):
    machine.fake.set_limit(550.0)
    with machine.limited(300):
        pass
    assert machine.fake.limit == 550.0


def test_the_clock_is_locked_in_the_block_and_then_free(machine):
    with machine.locked(1500) as change:
        assert machine.fake.locked == 1500
        assert machine.board.sm_mhz() == 1500
    assert machine.fake.locked is None
    assert (change.old, change.new) == (None, 1500)
    assert str(change).endswith("none known -> 1500 MHz")
    assert change.undo.endswith("-rgc")


@pytest.mark.parametrize("setting", ["limited", "locked"])
def test_a_dry_run_changes_nothing_and_gives_the_plan(machine, setting):
    with getattr(machine, setting)(300, dry_run=True) as change:
        assert (machine.fake.limit, machine.fake.locked) == (700.0, None)
    assert change.new == 300
    assert change.apply.startswith(f"sudo nvidia-smi -i {machine.fake.uuid} -")
    assert machine.nvml.calls[SET_LIMIT] == machine.nvml.calls[SET_CLOCKS] == 0


def test_an_exception_puts_both_back_and_passes(machine):
    with pytest.raises(KeyError), machine.limited(400), machine.locked(900):
        raise KeyError
    assert (machine.fake.limit, machine.fake.locked) == (700.0, None)


def test_blocks_within_blocks_come_back_step_by_step(machine):
    with machine.limited(500), machine.locked(1500):
        with machine.limited(300), machine.locked(900) as change:
            assert (machine.fake.limit, machine.fake.locked) == (300.0, 900)
            assert change.old == 1500
        assert (machine.fake.limit, machine.fake.locked) == (500.0, 1500)
    assert (machine.fake.limit, machine.fake.locked) == (700.0, None)


def test_blocks_that_end_in_another_order_leave_the_original(machine):
    """As blocks of two threads may."""
    first, second = machine.limited(500), machine.limited(300)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert machine.fake.limit == 300.0  # which the second still needs
    second.__exit__(None, None, None)
    assert machine.fake.limit == 700.0


def test_two_boards_do_not_share_their_settings():
    clock = Clock()
    nvml = FakeNvml(clock, [FakeBoard("GPU-aaaa"), FakeBoard("GPU-bbbb")])
    nvml.nvmlInit()
    first, second = boards(nvml)
    with clocks(1500, first), clocks(900, second) as change:
        assert [board.locked for board in nvml.boards] == [1500, 900]
        assert change.old is None


@pytest.mark.parametrize("watts", [199, 701, float("nan"), float("inf"), "400", None, True])
def test_watts_out_of_range_are_refused_with_the_range(machine, watts):
    with pytest.raises(ValueError, match="watts must be 200 to 700 for NVIDIA H200"):
        machine.limited(watts).__enter__()
    assert machine.nvml.calls[SET_LIMIT] == 0


@pytest.mark.parametrize(
    "mhz, nearest",
    [(1501, "1500 and 1515"), (100, "210 and 225"), (5000, "1965 and 1980")],
)
def test_a_clock_that_is_not_supported_is_refused_with_the_nearest(machine, mhz, nearest):
    message = f"mhz must be .* 210 to 1980 .* not {mhz}; the nearest are {nearest}"
    with pytest.raises(ValueError, match=message):
        machine.locked(mhz).__enter__()
    assert machine.nvml.calls[SET_CLOCKS] == 0


@pytest.mark.parametrize("mhz", ["1500", None, float("nan")])
def test_a_clock_that_is_no_number_is_refused(machine, mhz):
    with pytest.raises(ValueError, match=f"not {mhz!r}"):
        machine.locked(mhz).__enter__()


def test_a_board_without_limits_or_clocks_is_unavailable(machine):
    machine.fake.errors |= {
        "nvmlDeviceGetPowerManagementLimit": NOT_SUPPORTED,
        "nvmlDeviceGetSupportedMemoryClocks": NOT_SUPPORTED,
    }
    with pytest.raises(Unavailable, match="no power limit that can be set"):
        machine.limited(400).__enter__()
    with pytest.raises(Unavailable, match="names no SM clocks"):
        machine.locked(1500).__enter__()


PRIVILEGES = {
    "a user": (1000, 0, "needs root, and this process runs as user 1000"),
    "root in a container": (0, 0xA80425FB, "needs CAP_SYS_ADMIN, which root lacks here"),
    "root": (0, 0x1FFFFFFFFFF, "refuses it even to root with CAP_SYS_ADMIN"),
}


@pytest.mark.parametrize("user, capabilities, message", PRIVILEGES.values(), ids=PRIVILEGES)
@pytest.mark.parametrize(
    "setting, function, command",
    [("limited", SET_LIMIT, "-pl 300"), ("locked", SET_CLOCKS, "-lgc 300,300")],
)
def test_a_lack_of_permission_names_the_privilege_and_the_command(
    machine, monkeypatch, user, capabilities, message, setting, function, command
):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    status = f"Name:\tpython\nCapEff:\t{capabilities:016x}\n"
    monkeypatch.setattr(Path, "read_text", lambda path: status)
    machine.nvml.fail(function, NO_PERMISSION)
    with pytest.raises(NotPermitted, match=message) as raised:
        getattr(machine, setting)(300).__enter__()
    assert isinstance(raised.value, PermissionError) and isinstance(raised.value, Unavailable)
    assert f"sudo nvidia-smi -i {machine.fake.uuid} {command}" in str(raised.value)
    assert (machine.fake.limit, machine.fake.locked) == (700.0, None)


def test_a_limit_that_did_not_take_is_put_back_and_an_error(machine, monkeypatch):
    set_limit = machine.fake.set_limit
    monkeypatch.setattr(machine.fake, "set_limit", lambda watts: set_limit(max(watts, 450.0)))
    with pytest.raises(Unavailable, match="set to 400 W, but its limit is 450 W"):
        machine.limited(400).__enter__()
    assert machine.fake.limit == 700.0


def test_a_change_that_failed_half_way_is_put_back(machine, monkeypatch):
    def set_limit(watts):
        machine.fake.limit = watts
        if watts == 400:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)

    monkeypatch.setattr(machine.fake, "set_limit", set_limit)
    with pytest.raises(Unavailable, match=f"{SET_LIMIT} failed: Timeout"):
        machine.limited(400).__enter__()
    assert machine.fake.limit == 700.0


def test_a_lock_that_did_not_take_is_put_back_and_an_error(machine, monkeypatch):
    monkeypatch.setattr(machine.board, "sm_mhz", lambda: 1980)
    begin = machine.clock()
    with pytest.raises(Unavailable, match="locked at 1500 MHz, but is 1980 MHz"):
        machine.locked(1500).__enter__()
    assert machine.fake.locked is None
    assert 1.0 <= machine.clock() - begin < 1.2


def test_a_clock_that_follows_its_lock_late_has_taken(machine, monkeypatch):
    ready = machine.clock() + 0.5
    monkeypatch.setattr(machine.board, "sm_mhz", lambda: 1500 if machine.clock() >= ready else 1980)
    with machine.locked(1500):
        assert machine.clock() == pytest.approx(ready, abs=0.06)


def test_what_cannot_be_put_back_is_an_error_with_the_command_and_tried_again(machine, capsys):
    with pytest.raises(Unavailable, match="GPU is lost; .* puts it back: sudo nvidia-smi .*-pl 7"):
        with machine.limited(400):
            machine.nvml.fail(SET_LIMIT, LOST)
    power._put_all_back("exit")
    assert "GPU is lost" in capsys.readouterr().err
    machine.nvml.heal(SET_LIMIT)
    power._put_all_back("exit")
    assert machine.fake.limit == 700.0


def test_putting_back_twice_is_harmless(machine):
    stack = ExitStack()
    stack.enter_context(machine.limited(400))
    power._put_all_back("exit")
    assert machine.fake.limit == 700.0
    machine.fake.set_limit(600.0)  # by somebody, afterwards
    power._put_all_back("exit")
    with pytest.raises(RuntimeError, match="was put back on exit"):
        stack.close()
    assert machine.fake.limit == 600.0


@pytest.mark.parametrize("number", power.SIGNALS)
def test_a_handler_of_the_program_is_called_after_the_setting_is_back(machine, number):
    seen = []
    before = signal.signal(number, lambda n, frame: seen.append((n, machine.fake.limit)))
    try:
        with pytest.raises(RuntimeError, match=f"put back on {signal.Signals(number).name}"):
            with machine.limited(500), machine.limited(300):
                os.kill(os.getpid(), number)
                assert seen == [(number, 700.0)]
    finally:
        signal.signal(number, before)


def test_ctrl_c_raises_keyboard_interrupt_with_everything_back(machine):
    with pytest.raises(KeyboardInterrupt), machine.limited(500), machine.locked(900):
        os.kill(os.getpid(), signal.SIGINT)
    assert (machine.fake.limit, machine.fake.locked) == (700.0, None)


def test_an_ignored_signal_stays_ignored(machine):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with machine.limited(400):
            os.kill(os.getpid(), signal.SIGHUP)
            assert machine.fake.limit == 400.0
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_may_limit_but_hooks_no_signal(machine):
    handlers = [signal.getsignal(number) for number in power.SIGNALS]
    seen = []

    def run():
        with machine.limited(400):
            seen.append(machine.fake.limit)
            seen.append([signal.getsignal(number) for number in power.SIGNALS] == handlers)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [400.0, True]
    assert machine.fake.limit == 700.0


CHILD = """
import os, signal, sys, types
sys.path.insert(0, {tests!r})
for name, path in (("green_kernels", ""), ("green_kernels.energy", {energy!r})):  # without torch
    sys.modules[name] = package = types.ModuleType(name)
    package.__path__ = [path]
from fakes.clock import Clock
from fakes.nvml import FakeBoard, FakeNvml
from green_kernels.energy.nvml import boards
from green_kernels.energy.power import clocks, power_limit

class Board(FakeBoard):
    def set_limit(self, watts):
        super().set_limit(watts)
        print(f"{{os.getpid() == parent}} {{watts:g}} W", flush=True)

parent = os.getpid()
nvml = FakeNvml(Clock(), [Board()])
nvml.nvmlInit()
board, = boards(nvml)
block = power_limit(500, board)
block.__enter__()
inner = power_limit(300, board)
inner.__enter__()
{end}
"""
BACK = ["True 500 W", "True 300 W", "True 500 W", "True 700 W"]


@pytest.mark.parametrize(
    "end, status",
    [
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGHUP)", -signal.SIGHUP),
        ("sys.exit(3)", 3),
        ("pass", 0),
        ("1 / 0", 1),
        ("if os.fork(): os.wait()\nelse: sys.exit(0)", 0),
        ("child = os.fork()\nif child: os.wait()\nelse: os.kill(os.getpid(), signal.SIGTERM)", 0),
    ],
)
def test_a_process_that_ends_leaves_the_board_as_it_was(end, status):
    """Once, from the process that changed it and not from its children, and dies as it should."""
    here, energy = str(Path(__file__).parent), str(Path(power.__file__).parent)
    code = CHILD.format(tests=here, energy=energy, end=end)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.stdout.splitlines() == BACK
    assert child.returncode == status
