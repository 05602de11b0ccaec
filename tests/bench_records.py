"""Records made by hand, with known windows: none of their figures was measured."""

from green_kernels.bench import interval
from green_kernels.bench.figures import Energy, Window
from green_kernels.bench.record import Record, quartiles

NO_METER = "no RAPL package zone in /sys/class/powercap"
MACHINE = {
    "cpu": "A CPU that is made up",
    "cores": 8,
    "threads": 8,
    "gpu": None,
    "driver": None,
    "torch": "2.13.0",
    "green_kernels": "0.1.0",
    "commit": "0123456789abcdef0123456789abcdef01234567",
}
GPU = MACHINE | {
    "gpu": "Made-up H100 80GB HBM3",
    "driver": "600.1",
    "gpu_uuid": "GPU-00000000-0000-0000-0000-000000000000",
}
FREE = {"power cap": 0.0, "thermal": 0.0, "power brake": 0.0}  # nothing held the clocks
FULL = {
    "seconds": 5.0,
    "ticks": 50.0,
    "busy": 0.998,
    "celsius": (60.0, 60.5),
    "sm_mhz": (1755.0, 1740.0),
    "throttled": FREE,
}


def windows(joules_per_call, seconds_per_call=1e-3, **more):
    """A window for each figure of joules per call, as the full protocol would have it."""
    more = FULL | more
    return tuple(
        Window(
            joules=joules / seconds_per_call * more["seconds"],
            seconds_per_call=seconds_per_call,
            cycle=cycle,
            **more,
        )
        for cycle, joules in enumerate(joules_per_call)
    )


def measured(of_windows, **more):
    """The energy of a way from its windows."""
    joules = interval.median([w.joules_per_call for w in of_windows])
    width = interval.half_width(joules)
    capped = [w.throttled["power cap"] for w in of_windows if "power cap" in w.throttled]
    fields = {"source": "nvml", "converged": None if width is None else width <= 0.01}
    fields["power_limited"] = max(capped) > 0.01 if capped else None
    fields["net_reason"] = "idle power was not measured"
    fields |= {"windows": tuple(of_windows)} | more
    return Energy(status="measured", reason=None, joules=joules, **fields)


def unavailable(reason=NO_METER, **more):
    """No joules, and why."""
    return Energy(status="unavailable", reason=reason, **more)


def make(times=(1e-3,) * 5, baseline_seconds=1e-3, **more):
    """A record; `more` replaces its fields."""
    times = tuple(times)
    ratios = [baseline_seconds / seconds for seconds in times]
    low, high = quartiles(ratios) if ratios else (None, None)
    fields = {
        "case": "int8_linear",
        "kind": "op",
        "shape": "16x64x64",
        "way": "torch fp32",
        "baseline": "torch fp32",
        "device": "cpu",
        "dtype": "float32",
        "data": "normal",
        "seed": 0,
        "copies": 1,
        "cold": False,
        "protocol": "quick",
        "status": "timed" if times else "unavailable",
        "reason": None,
        "error": 0.01 if times else None,
        "tolerance": 0.04,
        "flops": 10**9,
        "executed_flops": more.get("flops", 10**9),
        "bytes": 10**7,
        "times": times,
        "calls": 10,
        "ratio": sorted(ratios)[len(ratios) // 2] if ratios else None,
        "ratio_low": low,
        "ratio_high": high,
        "energy": unavailable(),
        "assumed_watts": None,
        "estimated_joules": None,
        "date": "2026-01-01T00:00:00+00:00",
        "machine": MACHINE,
    }
    return Record(**fields | more)


def on_gpu(joules, times=(1e-3,) * 5, windows_of=None, **more):
    """A record of the full protocol on a GPU, with a window for each figure of joules."""
    energy = measured(windows(joules, **(windows_of or {})))
    return make(
        times, **{"device": "cuda", "protocol": "full", "machine": GPU, "energy": energy} | more
    )
