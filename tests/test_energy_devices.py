"""Devices by name: the board that a name means, and what is asked of it by that name."""

import sys

import pytest
import torch
from fakes.clock import Clock
from fakes.nvml import FakeBoard, FakeNvml

from green_kernels import energy
from green_kernels.energy import Board, FakeMeter, Unavailable, measure, nvml
from green_kernels.energy.devices import default_device, device_name

A, B = "GPU-aaaa0000-0000-0000-0000-000000000000", "GPU-bbbb0000-0000-0000-0000-000000000000"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def boards(clock, monkeypatch):
    """A machine whose CUDA shows two boards in the other order than NVML does."""
    made = [FakeBoard(uuid=A), FakeBoard(uuid=B)]
    library = FakeNvml(clock, made)
    library.nvmlInit()
    monkeypatch.setattr(nvml, "load", lambda: library)
    monkeypatch.setattr(sys.modules["green_kernels.energy.measure"], "_found", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    return made


@pytest.mark.parametrize("device, uuid", [("cuda", B), ("cuda:1", A), (torch.device("cuda", 1), A)])
def test_a_name_is_the_board_that_cuda_shows(boards, device, uuid):
    assert energy.board(device).uuid == uuid
    assert energy.board(energy.board(device)).uuid == uuid


def test_the_cpu_is_no_board(boards):
    with pytest.raises(Unavailable, match="cpu is no board of NVML"):
        energy.board("cpu")


def test_the_sensors_of_a_device_are_profiled_by_name(boards, clock, tmp_path):
    boards[1].set_power(400.0)
    found = energy.sensor_profile("cuda:0", clock=clock, sleep=clock.sleep, cache=tmp_path)
    assert (found.uuid, found.agrees) == (B, True)
    assert found.counter_watts == pytest.approx(400.0, rel=0.01)


def test_the_coverage_of_a_device_is_tested_by_name(boards, clock):
    def load(on):
        boards[1].set_power(500.0 if on else 80.0)

    found = energy.coverage_test("cuda:0", load, tick=0.1, clock=clock, sleep=clock.sleep)
    assert found.verdict == "full"
    assert found.on_watts == pytest.approx(500.0, rel=0.01)


def test_a_power_limit_is_set_by_name_and_put_back(boards):
    with energy.power_limit(300, "cuda:0"):
        assert [board.limit for board in boards] == [700.0, 300.0]
    assert [board.limit for board in boards] == [700.0, 700.0]


def test_a_dry_run_by_name_changes_nothing(boards):
    with energy.power_limit(300, "cuda:0", dry_run=True) as limit:
        assert boards[1].limit == 700.0 and B in limit.apply
    with energy.clocks(1200, "cuda:0", dry_run=True) as lock:
        assert boards[1].locked is None and "1200" in lock.apply


def test_clocks_are_locked_by_name_and_put_back(boards, clock):
    with energy.clocks(1200, "cuda:1", clock=clock, sleep=clock.sleep):
        assert boards[0].locked == 1200 and boards[1].locked is None
    assert boards[0].locked is None


@pytest.fixture
def synchronized(monkeypatch):
    """A torch that has started CUDA on two devices, and is on the second: what it waits for."""
    waited = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    return waited


def test_the_default_is_the_current_cuda_device(synchronized):
    assert default_device() == device_name("cuda") == "cuda:1"


def test_a_window_waits_for_its_cuda_devices_at_both_ends(synchronized, clock):
    meters = [FakeMeter(device=device, clock=clock) for device in ("cuda:0", "cuda:7", "cpu")]
    with measure(meters=meters, clock=clock):
        assert synchronized == [0]  # there is no eighth
        clock.sleep(1.0)
    assert synchronized == [0, 0]


def test_a_window_of_the_cpu_waits_for_no_gpu(synchronized, clock):
    with measure(meters=[FakeMeter(clock=clock)], clock=clock):
        clock.sleep(1.0)
    assert synchronized == []


def test_work_that_fails_on_the_gpu_fails_the_window(synchronized, clock, monkeypatch):
    def fail(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        with measure(meters=[FakeMeter(device="cuda:0", clock=clock)], clock=clock) as window:
            clock.sleep(1.0)
            monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert window.status == "unavailable(the measured code raised an exception)"


def test_boards_are_public():
    assert issubclass(energy.NotPermitted, Unavailable) and energy.Board is Board
