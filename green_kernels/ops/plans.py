"""Plans: which CUDA kernel computes an int8 product. A model chooses, and measurements correct it.

A plan is named kernel:tile:splits, as "wgmma:128x256x2:1": the kernel, what one of its blocks (or
a cluster of them) computes, and the number of parts of K that are added up. Every plan gives the
same bits, so choosing one is a matter of time and joules alone. `PLANS` has them all.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from green_kernels.ops._extension import _C

PLANS = {plan.name: plan for plan in _C.plans.ALL} if _C else {}
MEASURED = Path(__file__).with_name("measured_plans.json")

# A row of the table: for this kind of GPU, these rows of x, and this weight, the plan that measured
# fastest. arch, sm_count and memory as of gpu_of; from_float for int8_linear, else int8_matmul;
# origin: who measured it, and how.
_FIELDS = {
    "arch": int,
    "sm_count": int,
    "memory": int,
    "first_M": int,
    "last_M": int,
    "N": int,
    "K": int,
    "from_float": bool,
    "plan": str,
    "origin": str,
}


def gpu_of(device: torch.device) -> Any | None:
    """Return what plans are made for: a CUDA device's arch, SMs, shared memory and bandwidth.

    None where it is no CUDA device, or no CUDA kernels were compiled.
    """
    if device.type != "cuda" or _C is None or not _C.build_info()["cuda"]:
        return None
    with torch.cuda.device(device):
        return _C.plans.current_gpu()


def predicted_gain(M: int, N: int, K: int, dtype: torch.dtype, gpu: Any) -> float:
    """Return predicted time of F.linear in dtype / predicted time of int8_linear, (M, K) by (N, K).

    Both are a model's, from published rates of the GPU; nobody has measured them. Of the plan that
    was asked for, possible here or not, or else of the chooser's: a measured one, which is better
    than that, the model may well take for worse. ValueError for a dtype other than float32, float16
    and bfloat16.
    """
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype must be float32, float16 or bfloat16, got {dtype}")
    plan = _C.plans.asked_for() or _C.plans.choose(M, N, K, gpu, True)
    int8 = _C.plans.time(M, N, K, gpu, plan, True)
    return _C.plans.float_time(M, N, K, gpu, dtype.itemsize) / int8


@contextmanager
def use_plan(name: str) -> Iterator[None]:
    """Within this block, compute every int8 product on CUDA by the plan of that name.

    A product for which it is not possible raises RuntimeError. The choice is the process's, not the
    thread's; blocks may be nested. The environment variable GREEN_KERNELS_PLAN sets it from the
    start. ValueError for a name that is not among PLANS.
    """
    before = _C.plans.asked_for() if _C else None
    plan = _named(name, "name")
    _C.plans.ask_for(plan)
    try:
        yield
    finally:
        _C.plans.ask_for(before)


def read_measured_plans(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the rows of a table of measured plans, a JSON list of objects with all of _FIELDS.

    ValueError that names the file, the row and the field at fault.
    """
    try:
        rows = json.loads(Path(path).read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path} must be a JSON list, got {type(rows).__name__}")
    for index, row in enumerate(rows):
        _check_row(row, f"{path}, row {index}")
    return rows


def use_measured_plans(path: str | os.PathLike) -> None:
    """Let the table at path, as read_measured_plans takes it, correct the chooser from now on.

    It replaces the one before; the environment variable GREEN_KERNELS_PLANS names another than
    MEASURED from the start. What it holds for other GPUs is kept and not used.
    """
    rows = read_measured_plans(path)
    _check_built(path)
    *sizes, _, _ = _FIELDS
    _C.plans.set_measured([(*(row[name] for name in sizes), PLANS[row["plan"]]) for row in rows])


def _check_row(row: Any, place: str) -> None:
    if not isinstance(row, dict) or row.keys() != _FIELDS.keys():
        raise ValueError(f"{place} must have {', '.join(_FIELDS)}, got {row!r}")
    for field, kind in _FIELDS.items():
        if type(row[field]) is not kind:
            raise ValueError(f"{place}: {field} must be {kind.__name__}, got {row[field]!r}")
        if kind is int and not 0 <= row[field] < 2**31:
            raise ValueError(f"{place}: {field} must be in [0, 2**31), got {row[field]}")
    if row["first_M"] > row["last_M"]:
        raise ValueError(f"{place}: first_M must be at most last_M, got {row['first_M']}")
    _named(row["plan"], f"{place}: plan")
    if not row["origin"]:
        raise ValueError(f"{place}: origin must say who measured it, and how; got ''")


def _check_built(source: Any) -> None:
    if _C is None:
        raise ValueError(f"{source}: there are no plans, since no compiled kernels were built")


def _named(name: Any, source: str) -> Any:
    _check_built(source)
    if name not in PLANS:
        raise ValueError(f"{source} must be one of {', '.join(PLANS)}, got {name!r}")
    return PLANS[name]


def _use_the_environments_table() -> None:
    named = os.environ.get("GREEN_KERNELS_PLANS")
    try:
        use_measured_plans(named or MEASURED)
    except (OSError, ValueError) as error:
        if named:
            raise ValueError(f"GREEN_KERNELS_PLANS: {error}") from error
        raise


if _C:
    _use_the_environments_table()
if _asked := os.environ.get("GREEN_KERNELS_PLAN"):
    _plan = _named(_asked, "GREEN_KERNELS_PLAN")  # which says so where there is no _C
    _C.plans.ask_for(_plan)
