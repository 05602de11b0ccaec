"""Print the bytes that converting MiniLM holds, at its peak, beyond the float model. Linux only."""

import gc
import sys
from pathlib import Path

from torch import nn

import green_kernels as gk

from .cases.minilm import load
from .footprint import EVERY

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(key: str) -> int:
    """Return VmRSS or VmHWM, its peak, of this process in bytes."""
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Convert once, and compare the peak with the size before."""
    gk.convert(nn.Sequential(nn.Linear(384, 384)), EVERY)  # loads what is loaded only once
    model, _ = load()
    gc.collect()
    try:
        CLEAR_REFS.write_text("5")  # the peak is now what is held now
    except OSError as error:
        sys.exit(f"cannot reset the peak: {error}")
    before = resident("VmRSS")
    gk.convert(model, EVERY)
    print(max(0, resident("VmHWM") - before))


if __name__ == "__main__":
    main()
