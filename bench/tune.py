"""python -m bench tune: for this GPU, and for given weights, the fastest or least hungry launches.

    python -m bench tune int8_matmul --kernels triton --shape 4096x4096 --rows 1:4096 --by joules

A table of those that are surely better than what is in use is written; GREEN_KERNELS_TILES or
GREEN_KERNELS_PLANS then names it. Nothing is tuned when a program runs.
"""

import argparse
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from green_kernels import ops

from . import data, device, machine, ways
from .case import Unavailable
from .device import Device
from .runner import utc
from .trial import IN_USE, Trial, Verdict
from .tunables import TUNABLES, Product, Tunable, Winner
from .ways import Refused


def run(options: argparse.Namespace) -> int:
    """Tune and write a table; 1 if any result was wrong, or what is in use failed."""
    if not torch.cuda.is_available():
        options.error("tune measures on a GPU, and torch finds no CUDA device here")
    return tune(options, device.find("cuda"), machine.facts("cuda")["gpu"])


def tune(options: argparse.Namespace, tested: Device, gpu: str) -> int:
    """Tune on a device, and say so on the terminal; gpu: its name, for the table."""
    if options.by == "joules" and tested.meter is None:
        options.error(f"argument --by: no joules to tune by: {tested.no_meter}")
    try:
        tunable = TUNABLES[options.kernels](torch.device(tested.name))
        tunable.read(options.table)  # rather now than after minutes of running
    except Unavailable as reason:
        options.error(str(reason))
    except ValueError as wrong:
        options.error(f"argument --table: {wrong}")
    if not os.access(options.table.parent, os.W_OK):
        options.error(f"argument --table: cannot write into {options.table.parent}")
    tuner = Tuner(options, tested, gpu, tunable)
    say = Console(markup=False, highlight=False, soft_wrap=True).print
    with Console(stderr=True).status("") as status:
        tuner.progress = lambda step: status.update(escape(step))
        for line in tuner.lines():
            say(line)
    if tuner.winners:
        say(f"To use it: {tuner.tunable.variable}={options.table}")
    return 1 if tuner.failed else 0


@dataclass
class Tuner:
    """Trials of several products, and what they come to."""

    options: argparse.Namespace  # op, shapes, rows, by, table, budget
    tested: Device
    gpu: str
    tunable: Tunable
    winners: list[Winner] = field(default_factory=list)
    failed: bool = False  # a result was wrong, or what is in use raised
    progress: Callable[[str], None] = lambda step: None

    def lines(self) -> Iterator[str]:
        """Try all, write the table after each that changes it, and yield what to tell of it."""
        options, clock = self.options, self.tested.clock
        products = [
            (first, Product(options.op, last, N, K))
            for N, K in options.shapes
            for first, last in buckets(*options.rows)
        ]
        start = clock()
        for done, (first, product) in enumerate(products):
            deadline = None
            if options.budget is not None:  # what one leaves of its share goes to those after it
                left = start + options.budget - clock()
                deadline = clock() + left / (len(products) - done)
            head = f"{product.op} {product.M}x{product.K}x{product.N}: "
            if deadline is not None and clock() >= deadline:
                yield head + "left out, the time was up"
                continue
            try:
                verdict = self._try(product, head, deadline)
            except Refused as reason:
                self.failed = True
                yield head + f"failed: {reason}"
                continue
            yield head + self._take(product, first, verdict)

    def _take(self, product: Product, first: int, verdict: Verdict) -> str:
        """Note what a trial came to, write the table if it changes; return it in words."""
        timed = f"of {verdict.timed} that were timed, where {len(verdict.failed)} failed"
        timed += f" and for {verdict.left} there was no time" if verdict.left else ""
        if verdict.wrong:
            self.failed = True
            timed += f" and WRONG BITS came from {', '.join(verdict.wrong)}"
        if verdict.gain is None:
            return f"what is in use stays: {verdict.reason} ({timed})"
        share = f"{1 / verdict.gain.value:.1%} of the {self.options.by}"
        if verdict.best == IN_USE:
            return f"what is in use stays: the best takes {share} ({timed})"
        where = f"on {self.gpu}, {utc()}, at M = {product.M}"
        origin = f"measured {where}: took {share} of what was in use"
        if self.winners and self.winners[-1].goes_on(product, first, verdict.best):
            first = self.winners.pop().first_M
        self.winners.append(Winner(product, first, verdict.best, origin))
        self.tunable.save(self.winners, self.options.table)
        return f"{verdict.best} takes {share} of what is in use ({timed})"

    def _try(self, product: Product, head: str, deadline: float | None) -> Verdict:
        copies = ways.copies(self.tested, _bytes(product))
        made = [problem(product, self.tested.name, seed) for seed in range(copies)]
        others = self.tunable.candidates(product)
        # Drawn, so that of all kinds some are tried where the time ends before the candidates do.
        names = [None, *random.Random(0).sample(others, len(others))]
        calls = {
            IN_USE if name is None else name: [self._call(name, call) for call, _ in made]
            for name in names
        }
        expected = [expected for _, expected in made]
        return Trial(
            self.tested,
            calls,
            expected,
            self.options.by,
            deadline=deadline,
            progress=lambda step: self.progress(head + step),
        ).run()

    def _call(self, name: str | None, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def launched_so() -> Tensor:
            with self.tunable.use(name):
                return call()

        return launched_so


def buckets(first: int, last: int) -> list[tuple[int, int]]:
    """Return the ranges of M that share a row, up to each power of two; the last M is measured."""
    ends = [end for i in range(31) if first <= (end := 1 << i) < last] + [last]
    return list(zip([first, *(end + 1 for end in ends)], ends, strict=False))


@ways.refusing()
@torch.inference_mode()
def problem(product: Product, name: str, seed: int) -> tuple[Callable[[], Tensor], Tensor]:
    """Return a call of a product on a device, and what it must give; raise Refused if it fails."""
    M, N, K = product.M, product.N, product.K
    with data.recipe("normal", seed):
        x = data.activations(M, K, name).bfloat16()
        w_q, w_scale = ops.quantize_rows(torch.randn(N, K, device=name))
        bias = torch.randn(N, device=name).bfloat16()
    op = getattr(ops, product.op)
    left = (x,) if product.op == "int8_linear" else ops.quantize_rows(x)
    args, more = (*left, w_q, w_scale, bias), {"out_dtype": torch.bfloat16}
    return lambda: op(*args, **more), op.reference(*args, **more)


def _bytes(product: Product) -> int:
    """Of a product's operands, its weights before all."""
    M, N, K = product.M, product.N, product.K
    return M * K * (2 if product.op == "int8_linear" else 1) + N * K + 2 * M * N
