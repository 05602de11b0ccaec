"""gather(): one measurement from those of all ranks, with each board and each CPU counted once."""

import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from green_kernels.energy.measure import Measurement

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

BOOT = Path("/proc/sys/kernel/random/boot_id")


class Report(NamedTuple):
    """What one rank measured, and where: a kernel's boot is one to all of its containers."""

    host: str
    boot: str
    measurement: Measurement


@dataclass(frozen=True)
class Gathered:
    """The measurements of all ranks together. A device is known by "<host>/<UUID or cpu>"."""

    ranks: int
    seconds: float | None  # of the slowest rank; None if any rank's is not known
    joules: dict[str, float | None]  # by device, each once
    reasons: dict[str, str] = field(default_factory=dict)  # of the devices whose joules are None
    names: dict[str, list[str]] = field(default_factory=dict)  # "rank 0 cuda:0", by device
    silent: dict[int, str] = field(default_factory=dict)  # status of ranks without any device

    @property
    def duplicates(self) -> dict[str, list[str]]:
        """The devices that several names stand for, with those names; counted once in `total`."""
        return {device: names for device, names in self.names.items() if len(names) > 1}

    @property
    def total(self) -> float | None:
        """Joules of all devices; None if those of any device, or of any rank, are not known."""
        if not self.joules or self.silent or None in self.joules.values():
            return None
        return math.fsum(self.joules.values())

    @property
    def least(self) -> float | None:
        """Joules of the device with the least; None if any is not known."""
        return None if self.total is None else min(self.joules.values())

    @property
    def most(self) -> float | None:
        """Joules of the device with the most; None if any is not known."""
        return None if self.total is None else max(self.joules.values())

    @property
    def spread(self) -> float | None:
        """(most - least) / mean of the devices' joules; None if any is not known."""
        if self.total is None:
            return None
        return (self.most - self.least) * len(self.joules) / self.total

    @property
    def status(self) -> str:
        """Return "measured", or "unavailable(<reasons>)"."""
        if self.total is not None:
            return "measured"
        reasons = [f"rank {rank}: {status}" for rank, status in self.silent.items()]
        reasons += [f"{device}: {reason}" for device, reason in self.reasons.items()]
        return f"unavailable({'; '.join(reasons)})"


def machine_id() -> str:
    """Return what is the same in all processes under one kernel, and in no other's: its boot."""
    return BOOT.read_text().strip() if BOOT.exists() else socket.gethostname()


def gather(measurement: Measurement, group: "ProcessGroup | None" = None) -> Gathered | None:
    """total = sum of joules over the devices of all ranks; on rank 0 of the group, elsewhere None.

        with green_kernels.energy.measure() as window:
            train()
        everything = green_kernels.energy.gather(window)  # on every rank

    Ranks that share a GPU, or the CPU packages of a host, report one counter: it is counted once,
    in the longest window of those, and listed under `duplicates`. Every rank of the group must
    call this, since it is a collective of torch.distributed (with gloo or NCCL). Where that is not
    initialised, the process is the only rank.
    """
    import torch.distributed as dist

    report = Report(socket.gethostname(), machine_id(), measurement)
    if not (dist.is_available() and dist.is_initialized()):
        return combine([report])
    reports: list[Report] = [None] * dist.get_world_size(group)
    dist.all_gather_object(reports, report, group=group)
    return combine(reports) if dist.get_rank(group) == 0 else None


def combine(reports: Sequence[Report]) -> Gathered:
    """Return the sum of the measurements of ranks 0, 1, ...: what `gather` does with them."""
    joules: dict[str, float | None] = {}
    longest: dict[str, float] = {}
    reasons: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    silent: dict[int, str] = {}
    known: dict[str, str] = {}  # device by what is one in all the world
    for rank, (host, boot, measurement) in enumerate(reports):
        if not measurement.joules:
            silent[rank] = measurement.status
        for name, value in measurement.joules.items():
            identity = measurement.identities.get(name, name)
            unique = identity if identity.startswith("GPU-") else f"{boot}/{identity}"
            device = f"{host}/{identity}"
            if device in known.values():  # of another kernel that calls itself by the same name
                device = f"{host}.{boot}/{identity}"
            device = known.setdefault(unique, device)
            names.setdefault(device, []).append(f"rank {rank} {name}")
            seconds = measurement.seconds or 0.0
            if value is None:
                joules[device] = None
                reasons.setdefault(device, measurement.reasons.get(name, measurement.status))
            elif device not in reasons and seconds >= longest.get(device, 0.0):
                joules[device], longest[device] = value, seconds
    each = [report.measurement.seconds for report in reports]
    slowest = None if None in each else max(each)
    return Gathered(len(reports), slowest, joules, reasons, names, silent)
