"""Several processes under torchrun: each runs a device of its own, and rank 0 reports them all."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from statistics import fmean
from typing import NamedTuple

import torch
import torch.distributed as dist

from green_kernels import energy

from .figures import Energy
from .record import Record
from .words import group, joules_text, seconds_text

PATIENCE = timedelta(minutes=30)  # for the slowest rank's case, beyond which it is taken for dead


class RankFailed(RuntimeError):
    """Another rank raised; the message says which, and what."""


class Step(NamedTuple):
    """What one rank has of one step. records: None once it has no more. error: what it raised."""

    machine: str
    records: list[Record] | None
    error: str | None = None


def rank() -> int:
    """Return this process's number under torchrun; 0 outside it."""
    return int(os.environ.get("RANK", "0"))


def device(kind: str) -> str:
    """Return this process's device of a kind: "cuda:1" for the second process of a machine.

    Where a launcher shows each process a GPU of its own, that is "cuda:0" for all of them.
    """
    if kind == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{int(os.environ['LOCAL_RANK']) % max(1, torch.cuda.device_count())}"
    return kind


def join() -> None:
    """Connect the processes, by gloo: what they exchange is records, no tensors."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=PATIENCE)


def leave() -> None:
    """End the connection; a rank that still waits for this one fails at once."""
    if dist.is_initialized():
        dist.destroy_process_group()


def gathered(run: Iterable[list[Record]]) -> Iterator[list[Record] | None]:
    """Yield what all ranks have of each step of their runs, to rank 0; None to the others.

    run: this rank's records, case by case; a rank with fewer cases adds nothing to the last steps.
    Ranks wait for each other after each step. Where one raises, it raises the same here, and the
    others raise RankFailed.
    """
    mine = iter(run)
    while True:
        records, raised = None, None
        try:
            records = next(mine, None)
        except Exception as error:
            raised = error
        words = None if raised is None else f"{type(raised).__name__}: {raised}"
        steps = _exchange(Step(energy.machine_id(), records, words))
        if raised is not None:
            raise raised
        for number, step in enumerate(steps):
            if step.error is not None:
                raise RankFailed(f"rank {number} failed: {step.error}")
        if all(step.records is None for step in steps):
            return
        yield merged(steps) if rank() == 0 else None


def merged(steps: Sequence[Step]) -> list[Record]:
    """Return the records of one step of ranks 0, 1, ... as those of one run, with one date.

    A device that several ranks ran at once drew its power for all of them: none of its joules are
    a rank's own, so they are taken out, with the reason, rather than counted twice.
    """
    present = [(step.machine, step.records) for step in steps if step.records]
    shared = Counter(_identity(*one) for one in present)
    return [
        replace(_alone(record, shared[_identity(machine, records)]), date=present[0][1][0].date)
        for machine, records in present
        for record in records
    ]


def sums(records: Sequence[Record]) -> list[str]:
    """Return lines for each way that several ranks ran: time and joules of all, and their spread.

    Joules are the sum of a call on each rank's device; unknown on one, they are unknown in all.
    """
    lines, missing = [], {}
    for (case, shape, way), same in group(records, lambda r: (r.case, r.shape, r.way)).items():
        timed = [r for r in same if r.times]
        if len(same) < 2 or not timed:
            continue
        head, joules = f"{case} {shape}", [r.joules for r in same]
        line = (
            f"{head}, {way}: {len(same)} ranks, {_span([r.seconds for r in timed], seconds_text)}"
        )
        if len(timed) < len(same):
            line += f" on the {len(timed)} that could be timed"
        if None in joules:
            reason = next(r.energy.reason for r in same if r.joules is None)
            missing.setdefault((head, reason), []).append(way)
        else:
            line += f"; {joules_text(sum(joules))} in all, {_span(joules, joules_text)}"
        lines.append(line)
    for (head, reason), ways in missing.items():
        lines.append(f"{head}, {', '.join(ways)}: joules of all ranks are unavailable: {reason}")
    return lines


def _exchange(mine: Step) -> list[Step]:
    """Return the steps of all ranks, on every rank."""
    if not dist.is_initialized():
        return [mine]
    steps: list[Step] = [mine] * dist.get_world_size()
    dist.all_gather_object(steps, mine)
    return steps


def _identity(machine: str, records: Sequence[Record]) -> str:
    """Return what tells devices apart, across machines too."""
    return records[0].machine.get("gpu_uuid") or f"{machine}/{records[0].device}"


def _alone(record: Record, ranks: int) -> Record:
    if ranks == 1 or record.joules is None:
        return record
    reason = f"alone: {ranks} ranks ran on this device at once, and its joules are of all of them"
    unknown = Energy(reason=reason, source=record.energy.source, failed={"alone": reason})
    return replace(record, energy=unknown)


def _span(values: Sequence[float], text: Callable[[float], str]) -> str:
    """Say the least and the most, and (most - least) / mean."""
    least, most, mean = min(values), max(values), fmean(values)
    apart = f" ({(most - least) / mean:.1%} apart)" if mean else ""
    return f"{text(least)} to {text(most)} each{apart}"
