"""The SM clock of least joules per operation: one way of a case, at clocks from the top down.

    python -m bench sweep-clocks int8_linear --shape 512x4096x4096 --way ours --set-clocks

Power falls faster than the clock, and time rises slower: below the top there is a clock at which a
call costs least. Without --set-clocks nothing is changed, and the plan is printed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from green_kernels import energy

from . import device, interval, ways
from .case import Case, Entry, Unavailable
from .clock_point import Choice, ClockPoint, choose
from .device import Gpu
from .figures import Interval
from .protocol import FULL
from .record import Record
from .report import wide_console
from .runner import Runner, utc
from .ways import Refused
from .words import joules_text, pico_text, seconds_text, span_text

# The full protocol with fewer windows, as there is one of these for each clock.
SWEEP = replace(FULL, windows=5, most_windows=15)
SECONDS_A_POINT = 60  # about: 15 s to settle, two idle windows, five of the way


def run(options: argparse.Namespace) -> int:
    """Print the plan, or sweep and print the choice; 2 if clocks cannot be set here."""
    if options.device == "cpu":
        options.error("sweep-clocks sets the SM clock of a GPU; a CPU has none (--device cuda)")
    if len(options.chosen) != 1 or len(options.way) > 1:
        shapes = ", ".join(" ".join(key) for key in options.chosen)
        options.error(f"sweep-clocks takes one case, one --shape and one --way, got {shapes}")
    [((case, shape), entry)] = options.chosen.items()
    [way] = options.way or ["ours"]
    tested = device.find(options.device)
    if tested.meter is None:
        return _refuse(f"no joules to sweep for: {tested.no_meter}")
    try:
        clocks = spread(tested.board.supported_sm_clocks(), options.points)
        if not options.set_clocks:
            print(*plan(tested.board, clocks), sep="\n")
            return 0
        return _sweep(options, Sweep(tested, case, shape, entry, way), clocks)
    except energy.NotPermitted as reason:
        return _refuse(str(reason))
    except energy.Unavailable as reason:
        return _refuse(f"the clocks cannot be swept: {reason}")
    except KeyboardInterrupt:
        print("interrupted; the clock was put back", file=sys.stderr)
        return 130


def _sweep(options: argparse.Namespace, sweep: "Sweep", clocks: Sequence[int]) -> int:
    points = []
    say = Console(stderr=True).print
    try:
        _append(options, "")  # rather now than after the first clock
    except OSError as error:
        options.error(f"argument --json: cannot write {options.json}: {error.strerror}")
    if wrong := sweep.fault():
        print(f"{sweep.way} is not swept: {wrong}", file=sys.stderr)
        return 1
    for point in sweep.points(clocks, say):
        points.append(point)
        _append(options, point.json() + "\n")
    choice = choose(points, options.slowdown)
    print_points(points, choice, options.slowdown)
    return 0 if choice else 1


def spread(clocks: Sequence[int], points: int) -> list[int]:
    """Return so many of the clocks, evenly from the first to the last; all if there are fewer."""
    last = len(clocks) - 1
    picks = {round(i * last / max(1, points - 1)) for i in range(points)}
    return [clocks[i] for i in sorted(picks)]


def plan(board: energy.Board, clocks: Sequence[int]) -> Iterator[str]:
    """Yield what a sweep would do to the board, in lines; nothing is changed."""
    yield f"{board}: the SM clock would be locked at {len(clocks)} clocks, the first one twice:"
    for mhz in (*clocks, clocks[0]):
        with energy.clocks(mhz, board, dry_run=True) as change:
            yield f"  {change.new:g} MHz, as by: {change.apply}"
    yield f"and unlocked after each, as by: {change.undo}"
    minutes = SECONDS_A_POINT * (len(clocks) + 1) / 60
    yield f"It takes about {minutes:.0f} minutes, and root; in a container, CAP_SYS_ADMIN as well."
    yield "A lock that was made before is lost, as NVML cannot tell what it was."
    yield "Nothing was changed. To sweep: --set-clocks"


@dataclass
class Sweep:
    """One way of a case, to be measured at several clocks of a board."""

    tested: Gpu
    case: str
    shape: str
    entry: Entry
    way: str

    def fault(self) -> str | None:
        """Return why the way is not worth a sweep: it is not there, or its result is wrong."""
        try:
            case = ways.build(self.entry.build, self.tested)
            if self.way not in case.ways:
                return f"{self.case} {self.shape} has no way of that name"
            expected = ways.expected(case, self.tested)
            way = ways.make(case, self.way)
            output = ways.output(case, way, self.tested)
        except Unavailable as reason:
            return f"unavailable, {reason}"
        except Refused as reason:
            return f"refused, {reason}"
        _, reason = ways.error_of(case, way, [output], [expected])
        return reason and f"refused, {reason}"

    def points(
        self, clocks: Sequence[int], say: Callable[[str], object] = lambda step: None
    ) -> Iterator[ClockPoint]:
        """Yield a point for each clock, and for the first one again in the end.

        The board's clock is locked while a point is measured, and put back before it is yielded.
        Raises NotPermitted where the driver refuses; any other failure is a point's reason.
        """
        date = utc()
        for number, mhz in enumerate((*clocks, clocks[0]), 1):
            say(f"{number} of {len(clocks) + 1}: {mhz} MHz")
            try:
                record, reason = self._record(mhz), None
            except energy.NotPermitted:
                raise
            except energy.Unavailable as error:
                record, reason = None, str(error)
            yield self._point(mhz, number > len(clocks), record, reason, date)

    def _record(self, mhz: int) -> Record:
        tested = self.tested
        with energy.clocks(mhz, tested.board, clock=tested.clock, sleep=tested.sleep):
            (record,) = Runner(tested, SWEEP).run(self.case, self.shape, self._build)
        return record

    def _build(self, name: str) -> Case:
        """Build the case with this way alone, which is its own baseline then."""
        case = self.entry.build(name)
        return replace(case, ways={self.way: case.ways[self.way]})

    def _point(
        self, mhz: int, again: bool, record: Record | None, reason: str | None, date: str
    ) -> ClockPoint:
        windows = () if record is None or record.joules is None else record.energy.windows
        seen = [w.sm_mhz[0] for w in windows if w.sm_mhz]
        if record is not None and record.joules is None:
            reason = record.reason or record.energy.reason
        return ClockPoint(
            case=self.case,
            shape=self.shape,
            way=self.way,
            gpu_uuid=self.tested.board.uuid,
            mhz=mhz,
            again=again,
            flops=0 if record is None else record.flops,
            seconds=interval.median([w.seconds_per_call for w in windows]) if windows else None,
            joules=record.energy.joules if windows else None,
            seen_mhz=sum(seen) / len(seen) if seen else None,
            power_limited=record.energy.power_limited if windows else None,
            reason=reason,
            date=date,
        )


def print_points(
    points: Sequence[ClockPoint],
    choice: Choice | None,
    slowdown: float,
    console: Console | None = None,
) -> None:
    """Print a table of the points, and in words what was chosen and what drifted meanwhile."""
    console = console or wide_console()
    table = Table("locked", "seen", "time", "J/call", "95 % interval", "pJ/FLOP", "slowdown", "")
    top = points[0]
    for p in points:
        mark = "<- chosen" if choice and p is choice.point else "again" if p.again else ""
        if p.joules is None:
            table.add_row(f"{p.mhz} MHz", "", "unavailable", "", "", "", "", escape(p.reason))
            continue
        known = top.seconds is not None
        per_flop = p.joules_per_flop
        table.add_row(
            f"{p.mhz} MHz",
            "" if p.seen_mhz is None else f"{p.seen_mhz:.0f} MHz",
            seconds_text(p.seconds.value),
            joules_text(p.joules.value),
            span_text(p.joules, joules_text, SWEEP.windows),
            "" if per_flop is None else pico_text(per_flop),
            f"{p.seconds.value / top.seconds.value - 1:+.1%}" if known else "",
            mark + (", power limited" if p.power_limited else ""),
        )
    console.print(table)
    for line in words(points, choice, slowdown):
        console.print(escape(line))


def words(points: Sequence[ClockPoint], choice: Choice | None, slowdown: float) -> Iterator[str]:
    """Yield what a sweep comes to, in lines."""
    top, last = points[0], points[-1]
    if choice is None:
        yield f"no choice: the top clock has no joules to compare with: {top.reason}"
        return
    if choice.point is top:
        yield f"{top.mhz} MHz, the top: no clock up to {slowdown:.0%} slower surely costs less"
    else:
        yield (
            f"{choice.point.mhz} MHz: {_percent(choice.saved)} fewer joules per call than at "
            f"{top.mhz} MHz, {_percent(choice.slowdown)} slower"
        )
    if last.again and last.joules is not None:
        drift = last.joules.value / top.joules.value - 1
        yield f"drift: the top clock cost {drift:+.1%} joules at the end of the sweep"


def _append(options: argparse.Namespace, text: str) -> None:
    if options.json is not None:
        with open(options.json, "a", encoding="utf-8") as file:
            file.write(text)


def _percent(of: Interval) -> str:
    return f"{of.value:.1%} ({of.low:.1%} to {of.high:.1%})"


def _refuse(reason: str) -> int:
    print(reason, file=sys.stderr)
    return 2
