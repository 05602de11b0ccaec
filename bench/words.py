"""Figures of a record in words, the same in a terminal, in Markdown and on a page."""

import math
import re
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from green_kernels.carbon import JOULES_PER_KWH

from .figures import Interval
from .record import Record

R = TypeVar("R")

SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
PREFIXES = (
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1, ""),
    (1e-3, "m"),
    (1e-6, "u"),
    (1e-9, "n"),
    (1e-12, "p"),
)
NOT_KNOWN = "no reason given"


def quantity(value: float, unit: str) -> str:
    """Three digits with a prefix and a unit: 1.23 s, 45.6 ms, 789 uJ."""
    if value == 0:
        return f"0 {unit}".rstrip()
    rounded = float(f"{value:.2e}")  # 999.6 us is 1.00 ms
    found = (pair for pair in PREFIXES if abs(rounded) >= pair[0])
    factor, prefix = next(found, PREFIXES[-1])
    return f"{three_digits(rounded / factor)} {prefix}{unit}".rstrip()


def three_digits(value: float) -> str:
    """A number with three digits, and no exponent where it can do without: 0.0123, 1.23, 1234."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = 2 - math.floor(math.log10(abs(float(f"{value:.2e}"))))
    return f"{value:.{max(0, places)}f}" if places <= 7 else f"{value:.2e}"


def seconds_text(seconds: float) -> str:
    """Three digits with a unit: 1.23 s, 45.6 ms, 789 us."""
    return quantity(seconds, "s") if seconds < 1e3 else f"{seconds:.0f} s"


def joules_text(joules: float) -> str:
    """Three digits with a unit: 1.23 J, 45.6 mJ, 789 uJ."""
    return quantity(joules, "J")


def micro(text: str) -> str:
    """Return a text with its us and uJ as µs and µJ, where every reader has the letter."""
    return re.sub(r"\bu([sJ])\b", r"µ\1", text)


def pico_text(joules: float) -> str:
    """Joules as a number of picojoules: 0.713."""
    return three_digits(joules * 1e12)


def ratio_text(ratio: float) -> str:
    """A ratio to the baseline: 2.55."""
    return f"{ratio:.2f}"


def known_text(value: float | None, text: Callable[[float], str]) -> str:
    """Return a figure in words, nothing where it is not known."""
    return "" if value is None else text(value)


def span_text(interval: Interval, text: Callable[[float], str], windows: int) -> str:
    """Return the interval's two ends, or how many windows are too few for one."""
    if not interval.sure:
        return f"none from {windows} window{'s' * (windows != 1)}"
    return f"{text(interval.low)} - {text(interval.high)}"


def divided(interval: Interval | None, by: float) -> Interval | None:
    """Return an interval of something per `by` of its units; None where that is not known."""
    if interval is None or not by:
        return None
    ends = (None if end is None else end / by for end in (interval.low, interval.high))
    return Interval(interval.value / by, *ends)


def fidelity_text(r: Record) -> str:
    """The error of an op, the mean cosine of a model; nothing where neither is known."""
    if r.error is None:
        return ""
    return f"{r.error:.1e}" if r.kind == "op" else f"{1 - r.error:.5f}"


def samples_per_kwh(r: Record) -> float | None:
    """Inputs that a model answers for one kWh of this device; None without joules or samples."""
    joules = r.joules_per("sample")
    return None if not joules else JOULES_PER_KWH / joules


def dtype_text(r: Record) -> str:
    """The short name of a dtype: bf16."""
    return SHORT.get(r.dtype, r.dtype)


def labels(r: Record) -> list[str]:
    """Return what must be read with the figures: protocol, data, and what held joules back."""
    words = [r.protocol, f"{r.data} data"]
    if r.cold:
        words.append("beyond cache")
    if r.joules is not None:
        if r.energy.power_limited:
            words.append("power-limited")
        if r.energy.converged is False:
            words.append("not converged")
        elif r.energy.converged is None:
            words.append("convergence not known")
    return words


def no_time(r: Record) -> str:
    """Return why a way has no time."""
    return r.reason or NOT_KNOWN


def no_joules(r: Record) -> str:
    """Return why a way has no joules."""
    return f"joules: {r.energy.reason or NOT_KNOWN}"


def no_net(r: Record) -> str:
    """Return why a way with joules has none beyond the idle device's."""
    return f"net joules: {r.energy.net_reason or NOT_KNOWN}"


def extra_lines(r: Record) -> list[str]:
    """Return the further figures of a way as one line; bytes in MB."""
    words = []
    for name, value in r.extra.items():
        if name.endswith("_bytes"):
            words.append(f"{name.removesuffix('_bytes').replace('_', ' ')} {value / 1e6:.2f} MB")
        else:
            words.append(f"{name.replace('_', ' ')} {value:.4g}")
    return [f"{r.case} {r.shape}, {r.way}: {', '.join(words)}"] if words else []


def machine_line(r: Record) -> str:
    """Return the machine, the versions and the date of a record, in words."""
    m = r.machine
    where = f"{m.get('gpu')}, driver {m.get('driver')}" if m.get("gpu") else m.get("cpu")
    return (
        f"{where}, {m.get('threads')} of {m.get('cores')} cores, torch {m.get('torch')}, "
        f"green_kernels {m.get('green_kernels')} at {m.get('commit') or 'no commit'}, {r.date}"
        + (f", rank {r.rank}" if r.rank else "")
    )


def device_kind(r: Record) -> str:
    """Return "cpu" or "cuda", whichever of several it is."""
    return r.device.partition(":")[0]


def group(items: Iterable[R], key: Callable[[R], Hashable]) -> dict[Any, list[R]]:
    """Return items by key, in the order in which keys and items came."""
    groups: dict[Any, list[R]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def runs(records: Iterable[Record]) -> list[list[Record]]:
    """Return the records of each run: those of one date on one device by one process."""
    return list(group(records, lambda r: (r.date, r.device, r.rank)).values())


def rows(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records to be compared with each other, under the name of what they did."""
    groups = group(records, lambda r: (r.case, r.shape, r.data, r.protocol))
    named = group(groups, lambda key: key[:2])
    titles = {}
    for key in groups:
        case, shape, data, protocol = key
        several = len(named[case, shape]) > 1
        titles[f"{case} {shape}" + (f" ({protocol}, {data} data)" if several else "")] = key
    return {title: groups[key] for title, key in titles.items()}
