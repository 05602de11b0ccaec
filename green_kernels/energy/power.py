"""A board's power limit and SM clock, changed for the time of a `with` block and then put back.

Nothing is changed unless asked for. What was changed is put back when the block ends, also by an
exception, on SIGTERM, SIGINT and SIGHUP, and at the latest when the interpreter exits. Nothing
can be done about SIGKILL and os._exit; `Change.undo` is the command for that case. Signals can be
caught only where the block is entered in the main thread, and Python handles them only between
two bytecodes, so a call into a library that does not return delays it.
"""

import atexit
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any

from green_kernels.energy.meter import Unavailable
from green_kernels.energy.nvml import Board

SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
]
CAP_SYS_ADMIN = 21  # bit of CapEff, capabilities(7)
CLOCK_STEP = 15  # MHz between two supported clocks: how far a clock may be off its lock
PATIENCE = 1.0  # s in which a clock must follow its lock


class NotPermitted(Unavailable, PermissionError):
    """The driver refused a change of the board; the message names the privilege and a command."""


@dataclass(frozen=True)
class Change:
    """One change of a board: W for a "power limit", MHz for an "SM clock lock".

    old: what is put back; None is no lock. apply, undo: the commands that do the same by hand.
    """

    board: str
    what: str
    unit: str
    old: float | None
    new: float
    apply: str
    undo: str

    def __str__(self) -> str:
        """Return the change in one line."""
        old = "none known" if self.old is None else f"{self.old:g} {self.unit}"
        return f"{self.what} of {self.board}: {old} -> {self.new:g} {self.unit}"


@contextmanager
def power_limit(watts: float, board: Board, *, dry_run: bool = False) -> Iterator[Change]:
    """Limit the board to `watts` within the block.

    dry_run: yield the plan and change nothing. Raises ValueError outside the board's range,
    NotPermitted without the privilege, Unavailable where the board has no limit to set or where
    the limit did not take. RuntimeError at the end of a block that went on after a signal: the
    limit was put back when the signal came.
    """
    limits = board.power_limits()
    least, most, old = limits.least, limits.most, limits.requested
    if least is None or most is None or old is None:
        raise Unavailable(f"{board} has no power limit that can be set")
    if not _is_number(watts) or not least <= watts <= most:
        raise ValueError(f"watts must be {least:g} to {most:g} for {board}, not {watts!r}")
    tool = f"sudo nvidia-smi -i {board.uuid} -pl"
    change = Change(
        str(board), "power limit", "W", old, watts, f"{tool} {watts:g}", f"{tool} {old:g}"
    )

    def write(value: float | None) -> None:
        _set(board, change, "nvmlDeviceSetPowerManagementLimit", round(value * 1e3))

    def verify() -> None:
        limits = board.power_limits()
        for name, limit in (("limit", limits.requested), ("enforced limit", limits.enforced)):
            if limit is not None and abs(limit - watts) > 0.5:
                raise Unavailable(
                    f"{board}: the power limit was set to {watts:g} W, but its {name} is "
                    f"{limit:g} W; it was put back to {old:g} W"
                )

    with _changed(change, (board.uuid, change.what), write, verify, dry_run):
        yield change


@contextmanager
def clocks(
    mhz: int,
    board: Board,
    *,
    dry_run: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Change]:
    """Lock the board's SM clock at `mhz` within the block.

    NVML cannot tell whether the clock was locked before. To put it back is to lift the lock, or,
    in a block within another one, to lock at the outer one's clock: a lock that an administrator
    made is lost. Nor can a lock be read back: the SM clock must fall to it within a second.
    dry_run: yield the plan and change nothing. Raises ValueError for a clock that the board does
    not support, NotPermitted, Unavailable and RuntimeError as `power_limit` does.
    """
    supported = board.supported_sm_clocks()
    if not _is_number(mhz) or mhz not in supported:
        nearest = ""
        if _is_number(mhz):
            by_distance = sorted(supported, key=lambda other: abs(other - mhz))
            nearest = f"; the nearest are {' and '.join(map(str, sorted(by_distance[:2])))}"
        raise ValueError(
            f"mhz must be an SM clock of {board}, {min(supported)} to {max(supported)} in steps, "
            f"not {mhz!r}{nearest}"
        )
    key = (board.uuid, "SM clock lock")
    old = _outer(key)
    tool = f"sudo nvidia-smi -i {board.uuid}"
    undo = f"{tool} -rgc" if old is None else f"{tool} -lgc {old:g},{old:g}"
    change = Change(str(board), key[1], "MHz", old, mhz, f"{tool} -lgc {mhz:g},{mhz:g}", undo)

    def write(value: float | None) -> None:
        if value is None:
            _set(board, change, "nvmlDeviceResetGpuLockedClocks")
        else:
            _set(board, change, "nvmlDeviceSetGpuLockedClocks", int(value), int(value))

    def verify() -> None:
        end = clock() + PATIENCE
        while (now := board.sm_mhz()) > mhz + CLOCK_STEP:
            if clock() > end:
                raise Unavailable(
                    f"{board}: the SM clock was locked at {mhz} MHz, but is {now} MHz; the lock "
                    "was put back"
                )
            sleep(PATIENCE / 20)

    with _changed(change, key, write, verify, dry_run):
        yield change


@dataclass(eq=False)
class _Applied:
    """A change that is in force and is to be put back, by the process that made it."""

    change: Change
    key: tuple[str, str]  # board and setting
    old: float | None
    write: Callable[[float | None], None]
    pid: int
    lifted_by: str | None = None


_applied: list[_Applied] = []  # in the order in which they were made
_handlers: dict[int, Any] = {}  # what handled our signals before
_lock = threading.RLock()  # a signal may come while its own thread holds it


@contextmanager
def _changed(
    change: Change,
    key: tuple[str, str],
    write: Callable[[float | None], None],
    verify: Callable[[], None],
    dry_run: bool,
) -> Iterator[None]:
    if dry_run:
        yield
        return
    mine = _Applied(change, key, change.old, write, os.getpid())
    with _lock:
        _hook_signals()
        atexit.unregister(_put_all_back)  # so that it is there once
        atexit.register(_put_all_back, "exit")
        _applied.append(mine)  # first, as a signal may come right after the change
    try:
        try:
            write(change.new)
        except Unavailable:
            with suppress(Unavailable):  # half done, perhaps
                write(mine.old)
            _forget(mine)
            raise
        verify()
        yield
    finally:
        _put_back(mine)
    if mine.lifted_by:
        raise RuntimeError(
            f"{change.what} of {change.board} was put back on {mine.lifted_by}, so the rest of "
            "the block ran without it"
        )


def _outer(key: tuple[str, str]) -> float | None:
    """What this process last set and has not put back."""
    with _lock:
        return next((a.change.new for a in reversed(_applied) if a.key == key), None)


def _put_back(mine: _Applied) -> None:
    """Put a change back, unless that was done; one that was made later takes over its old value."""
    with _lock:
        if mine not in _applied or mine.pid != os.getpid():
            return
        later = _applied[_applied.index(mine) + 1 :]
        follower = next((other for other in later if other.key == mine.key), None)
        if follower is not None:
            follower.old = mine.old
        else:
            try:
                mine.write(mine.old)
            except Unavailable as error:  # it stays in the list, to be tried again at exit
                raise Unavailable(
                    f"{error}; the {mine.change.what} is still changed, and this puts it back: "
                    f"{mine.change.undo}"
                ) from error
        _forget(mine)


def _forget(mine: _Applied) -> None:
    with _lock:
        if mine in _applied:
            _applied.remove(mine)
        _unhook_signals()


def _put_all_back(event: str) -> None:
    with _lock:
        for mine in reversed(list(_applied)):
            if mine.pid != os.getpid():
                continue  # a forked child leaves to its parent what that changed
            try:
                mine.lifted_by = event
                _put_back(mine)
            except Unavailable as error:  # the others must be put back all the same
                print(error, file=sys.stderr)


def _hook_signals() -> None:
    """Take over the signals that end the process, except those that are ignored."""
    if threading.current_thread() is not threading.main_thread() or _handlers:
        return  # signals can be caught in the main thread only, and once is enough
    for number in SIGNALS:
        before = signal.getsignal(number)
        if before is not None and before is not signal.SIG_IGN:  # None: not of Python's making
            _handlers[number] = before
            signal.signal(number, _on_signal)


def _unhook_signals() -> None:
    if _applied or threading.current_thread() is not threading.main_thread():
        return
    for number, before in _handlers.items():
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, before)
    _handlers.clear()


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Put everything back, then do what would have been done without this."""
    before = _handlers.pop(number, signal.SIG_DFL)
    if signal.getsignal(number) is _on_signal:
        signal.signal(number, before)
    _put_all_back(signal.Signals(number).name)
    if callable(before):
        before(number, frame)
    else:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _set(board: Board, change: Change, function: str, *args: int) -> None:
    try:
        board.ask(function, *args)
    except Unavailable as error:
        if error.__cause__.value != board.nvml.NVML_ERROR_NO_PERMISSION:
            raise
        raise NotPermitted(
            f"the {change.what} of {board} cannot be set: {_missing_privilege()}. An "
            f"administrator of the host can run: {change.apply} (and afterwards: {change.undo})"
        ) from error


def _missing_privilege() -> str:
    if os.geteuid() != 0:
        return (
            f"this needs root, and this process runs as user {os.geteuid()}; in a container it "
            "needs root and --privileged or --cap-add SYS_ADMIN"
        )
    status = Path("/proc/self/status").read_text()
    capabilities = next(
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")
    )
    if not capabilities >> CAP_SYS_ADMIN & 1:
        return (
            "this needs CAP_SYS_ADMIN, which root lacks here, as in a container that was started "
            "without --privileged or --cap-add SYS_ADMIN"
        )
    return (
        "the driver refuses it even to root with CAP_SYS_ADMIN, as on a virtual GPU or where the "
        "host keeps it to itself"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
