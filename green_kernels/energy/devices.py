"""Devices by the names that torch gives them: what a name means, and what can be asked by name."""

import re
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from green_kernels.energy import coverage, nvml, power, sensor
from green_kernels.energy.meter import Unavailable
from green_kernels.energy.nvml import Board
from green_kernels.energy.visible import board_of

if TYPE_CHECKING:
    import torch

    Device = torch.device | str | int


def device_name(device: "Device") -> str:
    """Return "cuda:<index>" or "cpu" for a device; "cuda" alone is the current one.

    Raises ValueError for what names no device.
    """
    torch = sys.modules.get("torch")
    if isinstance(device, int) and not isinstance(device, bool) and device >= 0:
        return f"cuda:{device}"
    is_device = torch is not None and isinstance(device, torch.device)
    parts = re.fullmatch(r"([a-z]+)(?::([0-9]+))?", str(device))
    if parts is None or not (is_device or isinstance(device, str)):
        raise ValueError(
            f'devices: {device!r} is none; give "cpu", "cuda", "cuda:<index>", a torch.device '
            "or the index of a CUDA device"
        )
    kind, index = parts.groups()
    if kind == "cuda":
        return f"cuda:{int(index) if index else _current()}"
    return kind if kind == "cpu" else str(device)


def default_device() -> str:
    """Return the current CUDA device where torch has one, and "cpu" elsewhere."""
    torch = sys.modules.get("torch")
    return device_name("cuda") if torch is not None and torch.cuda.is_available() else "cpu"


def synchronize(devices: Iterable[str]) -> None:
    """Wait until the queues of the CUDA devices among these are empty."""
    torch = torch_with_cuda()
    if torch is not None:
        for device in devices:
            kind, _, index = device.partition(":")
            if kind == "cuda" and int(index) < torch.cuda.device_count():
                torch.cuda.synchronize(int(index))


def board(device: "Device | Board" = "cuda") -> Board:
    """Return the NVML board of a CUDA device; raise Unavailable with the reason if there is none.

    device: "cuda", "cuda:1", a torch.device, an index as CUDA counts, or a board.
    """
    if isinstance(device, Board):
        return device
    name = device_name(device)
    kind, _, index = name.partition(":")
    if kind != "cuda":
        raise Unavailable(f"{name} is no board of NVML; give a CUDA device")
    return board_of(int(index), nvml.boards(nvml.load()))


def sensor_profile(
    device: "Device | Board" = "cuda", load: sensor.Load = None, **options: Any
) -> sensor.SensorProfile:
    """Return how the energy counter of a CUDA device ticks, and whether dE/dt agrees with power.

    device: as for `board`. load, options: as for `green_kernels.energy.sensor.sensor_profile`.
    """
    return sensor.sensor_profile(board(device), load, **options)


def coverage_test(
    device: "Device | Board", square_wave: Callable[[bool], object], *, tick: float, **options: Any
) -> coverage.Coverage:
    """Return whether the energy counter of a CUDA device sees all of a load that varies.

    device: as for `board`. The rest as for `green_kernels.energy.coverage.coverage_test`.
    """
    return coverage.coverage_test(board(device), square_wave, tick=tick, **options)


def power_limit(
    watts: float, device: "Device | Board" = "cuda", *, dry_run: bool = False
) -> AbstractContextManager[power.Change]:
    """Limit a CUDA device to `watts` within a `with` block, as `energy.power` says.

    device: as for `board`. dry_run: change nothing, and give the plan.
    """
    return power.power_limit(watts, board(device), dry_run=dry_run)


def clocks(
    mhz: int, device: "Device | Board" = "cuda", *, dry_run: bool = False, **options: Any
) -> AbstractContextManager[power.Change]:
    """Lock the SM clock of a CUDA device at `mhz` within a `with` block, as `energy.power` says.

    device: as for `board`. dry_run: change nothing, and give the plan.
    """
    return power.clocks(mhz, board(device), dry_run=dry_run, **options)


def torch_with_cuda() -> ModuleType | None:
    """Return torch if it is loaded and has started CUDA; None otherwise, starting nothing."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def _current() -> int:
    torch = torch_with_cuda()
    return 0 if torch is None else torch.cuda.current_device()
