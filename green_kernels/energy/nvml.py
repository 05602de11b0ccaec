"""NVML's total-energy counter: millijoules of a whole board since the driver was loaded."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from green_kernels.energy.meter import Unavailable


class NvmlMeter:
    """The energy counters of CUDA devices: board and memory, whoever uses them.

    indices: CUDA device indices, as torch counts them. CUDA_VISIBLE_DEVICES reorders and hides
    devices, and NVML ignores it, so boards are found by the UUID that CUDA reports.
    nvml, properties: the pynvml module and torch.cuda.get_device_properties, or fakes of them.
    Raises Unavailable without NVML, in MIG mode, or where a board has no such counter.
    """

    name = "nvml"
    tick = 0.1  # 20 to 100 ms by model; the slowest is assumed
    read_within = None  # 64 bits of millijoules do not wrap

    def __init__(
        self,
        indices: Sequence[int] = (0,),
        nvml: ModuleType | Any | None = None,
        properties: Any = torch.cuda.get_device_properties,
    ):
        """Find the boards, and read each counter once."""
        self.nvml = _load() if nvml is None else nvml
        self.boards = {}
        try:
            self.nvml.nvmlInit()
            for index in indices:
                facts = properties(index)
                part = f"cuda:{index} {facts.name}"
                self.boards[part] = self._board(facts)
                self._refuse_mig(part, self.boards[part])
        except self.nvml.NVMLError as error:
            raise Unavailable(f"NVML: {error}") from None
        self.read()  # a board without the counter is refused here, not at the first window

    def read(self) -> dict[str, float]:
        """Return joules since the driver was loaded, by board."""
        return {part: self._joules(part, board) for part, board in self.boards.items()}

    def _joules(self, part: str, board: Any) -> float:
        try:
            return self.nvml.nvmlDeviceGetTotalEnergyConsumption(board) / 1e3
        except self.nvml.NVMLError as error:
            if error.value == self.nvml.NVML_ERROR_NOT_SUPPORTED:
                raise Unavailable(
                    f"{part} has no total-energy counter; Volta and newer boards have one, "
                    "virtual GPUs do not"
                ) from None
            raise Unavailable(f"NVML cannot read the energy counter of {part}: {error}") from None

    def _board(self, facts: Any) -> Any:
        uuid = str(facts.uuid)
        if not uuid.startswith(("GPU-", "MIG-")):
            uuid = f"GPU-{uuid}"
        try:
            return self.nvml.nvmlDeviceGetHandleByUUID(uuid)
        except self.nvml.NVMLError:  # a slice of a board has a UUID of its own; its bus is shared
            bus = f"{facts.pci_domain_id:08x}:{facts.pci_bus_id:02x}:{facts.pci_device_id:02x}.0"
            return self.nvml.nvmlDeviceGetHandleByPciBusId(bus)

    def _refuse_mig(self, part: str, board: Any) -> None:
        try:
            mode, _ = self.nvml.nvmlDeviceGetMigMode(board)
        except self.nvml.NVMLError as error:
            if error.value == self.nvml.NVML_ERROR_NOT_SUPPORTED:  # a board without MIG
                return
            raise
        if mode == self.nvml.NVML_DEVICE_MIG_ENABLE:
            raise Unavailable(
                f"{part} is in MIG mode: the counter is of the whole board, not of this slice"
            )


def _load() -> ModuleType:
    try:
        import pynvml
    except ImportError:
        raise Unavailable("pynvml is not installed: pip install nvidia-ml-py") from None
    return pynvml
