"""Several processes under torchrun: each runs a device of its own, and rank 0 reports them all."""

import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch.distributed as dist

from .energy import Energy
from .record import Record


def rank() -> int:
    """Return this process's number under torchrun; 0 outside it."""
    return int(os.environ.get("RANK", "0"))


def device(kind: str) -> str:
    """Return this process's device of a kind: "cuda:1" for the second process of a machine."""
    if kind == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return kind


def join() -> None:
    """Connect the processes, by gloo: what they exchange is records, no tensors."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")


def leave() -> None:
    """End the connection."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gather(records: list[Record]) -> list[Record] | None:
    """Return the records of all ranks, to rank 0 only; None to the others.

    A device that several ranks ran at once drew its power for all of them: none of its joules are
    a rank's own, so they are taken out, with the reason, rather than counted twice.
    """
    if not dist.is_initialized():
        return records
    mine = (_identity(records), records)
    everyone = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(mine, everyone)
    if everyone is None:
        return None
    shared = Counter(identity for identity, _ in everyone)
    return [
        _alone(record, shared[identity]) for identity, records in everyone for record in records
    ]


def sums(records: Sequence[Record]) -> list[str]:
    """Return a line for each way that several ranks ran: joules of all, and their spread."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for r in records:
        groups.setdefault((r.case, r.shape, r.way), []).append(r)
    lines = []
    for (case, shape, way), group in groups.items():
        if len(group) < 2:
            continue
        joules = [r.joules for r in group]
        if None in joules:
            reason = next(r.energy.reason for r in group if r.joules is None)
            lines.append(f"{case} {shape}, {way}: {len(group)} ranks, joules unavailable, {reason}")
        else:
            spread = (max(joules) - min(joules)) / fmean(joules)
            lines.append(
                f"{case} {shape}, {way}: {sum(joules):.4g} J over {len(group)} ranks, "
                f"{min(joules):.4g} to {max(joules):.4g} J each ({spread:.1%} apart)"
            )
    return lines


def _identity(records: Sequence[Record]) -> tuple[str, str]:
    """Return what tells devices apart across machines."""
    first = records[0] if records else None
    of_board = first.machine.get("gpu_uuid") if first else None
    return platform.node(), of_board or (first.device if first else "none")


def _alone(record: Record, ranks: int) -> Record:
    if ranks == 1 or record.joules is None:
        return record
    reason = f"alone: {ranks} ranks ran on this device at once, and its joules are of all of them"
    energy = Energy(reason=reason, source=record.energy.source, failed={"alone": reason})
    return replace(record, energy=energy)
