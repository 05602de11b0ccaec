"""What the values of options stand for: functions that argparse takes for a type."""

import argparse
import math
import re

from green_kernels.ops import MAX_K


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def positive(text: str) -> float:
    """Return a positive, finite number."""
    if not 0 < (value := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def natural_number(text: str) -> float:
    """Return a number of 0 or more."""
    if not 0 <= (value := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of 0 or more, got {text!r}")
    return value


def shape(text: str) -> tuple[int, int]:
    """Return N and K of "NxK"."""
    match = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", text)
    if not match or int(match[2]) > MAX_K:
        raise argparse.ArgumentTypeError(f"must be NxK with K to {MAX_K}, got {text!r}")
    return int(match[1]), int(match[2])


def rows(text: str) -> tuple[int, int]:
    """Return the first and last M of "FIRST:LAST"."""
    match = re.fullmatch(r"([1-9]\d{0,8}):([1-9]\d{0,8})", text)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"must be FIRST:LAST, as 1:8192, got {text!r}")
    return int(match[1]), int(match[2])


def fraction(text: str) -> float:
    """Return a number from 0 to below 1."""
    if not 0 <= (value := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 1, got {text!r}")
    return value


def natural(text: str) -> int:
    """Return an integer from 0 that torch takes for a seed."""
    if not text.isdecimal() or len(text) > 18:  # torch's seeds have 64 bits
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 10^18 - 1, got {text!r}")
    return int(text)


def count(text: str) -> int:
    """Return a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def duration(text: str) -> float:
    """Return the seconds of "90", "90s", "8m" or "1h"."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0
    if not seconds:
        raise argparse.ArgumentTypeError(f"must be a time such as 90s, 8m or 1h, got {text!r}")
    return seconds
