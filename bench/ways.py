"""A way of a case, on its way to be timed: built, called once, checked, and put into batches."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import data
from .case import Case, Unavailable, Way
from .device import Device
from .execute import Batch
from .figures import Energy
from .joules import Joules
from .protocol import Protocol

WARM_SECONDS = 0.05  # of calls before a way is timed: caches, pools and clocks settle
MOST_COPIES = 16  # of a case's buffers; what fits the cache 16 times over is small indeed
BEYOND = 1.5  # times the cache that all copies take, so that none is left of the last round
BATCH_SECONDS = 0.03  # of a batch in a window of energy: longer than a poll, far below a window


class Refused(Exception):
    """This way is there, but fails or is wrong; the message says how."""


@dataclass
class Ready:
    """A way that computes what it should, on each copy of the case's buffers."""

    calls: list[Callable[[], Any]]
    graph: bool
    seconds: float = 0.0  # of a first call

    def batch(self, device: Device, seconds: float) -> Batch:
        """Return a batch of calls that takes about this long, measured as it runs."""
        once = device.executor.batch(self.calls, len(self.calls), self.graph)
        done, start = 0, device.clock()
        while True:
            running = once.start()
            device.executor.synchronize()
            done += 1
            passed = device.clock() - start
            if passed >= WARM_SECONDS:
                break
        begin, end = running.span()
        count = math.ceil(seconds / max((end - begin) / once.calls, 1e-9))
        if count <= once.calls:
            return once
        return device.executor.batch(self.calls, count, self.graph)


@contextmanager
def refusing() -> Iterator[None]:
    """Raise Refused for what a way raises, so that a peer's fault does not end the run."""
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "no message")
        raise Refused(f"{type(error).__name__}: {line}") from error


@refusing()
def build(
    case: Callable[[str], Case], device: Device, recipe: str = "normal", seed: int = 0
) -> Case:
    """Return a case on a device, its inputs drawn by a recipe from a seed.

    Raises Unavailable where what all ways need is not there, Refused where it fails.
    """
    # Weights made in inference_mode would be inference tensors, which some peers cannot change.
    with torch.inference_mode(False), torch.no_grad(), data.recipe(recipe, seed):
        return case(device.name)


@refusing()
def make(case: Case, name: str) -> Way:
    """Return a way ready to be called, with the case's figures where it has none of its own.

    Raises Unavailable where it cannot be had, Refused where it fails.
    """
    with torch.inference_mode(False), torch.no_grad():
        way = case.ways[name]()
    way = way if isinstance(way, Way) else Way(way)
    return replace(
        way,
        dtype=way.dtype or case.dtype,
        tolerance=case.tolerance if way.tolerance is None else way.tolerance,
        executed_flops=case.flops if way.executed_flops is None else way.executed_flops,
    )


@refusing()
@torch.inference_mode()
def output(case: Case, way: Way, device: Device) -> Tensor:
    """Return what of a way's result is compared, once the device has computed it.

    Raises Unavailable or Refused where there is none.
    """
    output = case.output(way.call())
    device.executor.synchronize()
    return output


def expected(case: Case, device: Device) -> Tensor:
    """Return what the baseline computes, in memory of its own; raise Refused if it does not."""
    baseline = next(iter(case.ways))
    try:
        return output(case, make(case, baseline), device).clone()
    except (Unavailable, Refused) as reason:
        raise Refused(f"{baseline} gave nothing to compare with: {reason}") from reason


@torch.inference_mode()
def error_of(
    case: Case, way: Way, outputs: Sequence[Tensor], expected: Sequence[Tensor]
) -> tuple[float | None, str | None]:
    """max case.error(output, expected) over the copies, and the reason to refuse the way for it.

    way: as `make` gives it;  outputs, expected: its and the baseline's, one for each copy
    The error is None where it is not finite or the shapes differ; the reason is None for a way
    within its tolerance.
    """
    if outputs[0].shape != expected[0].shape:
        shapes = f"{tuple(outputs[0].shape)}, not {tuple(expected[0].shape)}"
        return None, f"its output has shape {shapes}"
    errors = [case.error(*pair) for pair in zip(outputs, expected, strict=True)]
    error = max(errors, key=lambda error: (error != error, error))  # a NaN is the largest
    if not error <= way.tolerance:  # as a NaN is not
        finite = error if abs(error) < math.inf else None
        return finite, f"off by {error:.3g}, more than {way.tolerance:.3g}"
    # Rounding may take an error measured as a difference from one just below zero.
    return max(0.0, error), None


def copies(device: Device, nbytes: int) -> int:
    """Return how many copies of buffers of so many bytes exceed the cache, if that is known."""
    if not nbytes or device.cache_bytes is None:
        return 1
    return min(MOST_COPIES, max(1, math.ceil(BEYOND * device.cache_bytes / nbytes)))


def seconds(batch: Batch, device: Device) -> float:
    """Return the seconds that a call takes, of a batch with the device to itself; raise Refused."""
    device.executor.synchronize()
    with refusing():
        running = batch.start()
        device.executor.synchronize()
    begin, end = running.span()
    return (end - begin) / batch.calls


def joules(
    ready: Mapping[str, Ready],
    device: Device,
    protocol: Protocol,
    deadline: float | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Energy]:
    """Return the energy of a call of each way, or why it is not known.

    deadline: by the device's clock, after which no window is started.
    """
    if device.meter is None:
        return dict.fromkeys(ready, Energy(reason=device.no_meter))
    batches = {name: way.batch(device, BATCH_SECONDS) for name, way in ready.items()}
    return Joules(device, protocol, batches, deadline, progress).measure()
