"""What can be tuned: how a product is launched, by the kernels of Triton and by compiled ones."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from green_kernels import ops

from .case import Unavailable

# BLOCK_M, BLOCK_N, BLOCK_K, warps, stages, persistent; and how many sums a thread may hold.
CHOICES = (
    (16, 32, 64, 128, 256),
    (32, 64, 128, 256),
    (128, 256),
    (4, 8),
    (3, 4, 5),
    (False, True),
)
SUMS = range(8, 129)


@dataclass(frozen=True)
class Product:
    """y = op(x, w): (M, K) by (N, K), in bfloat16 and with a bias."""

    op: str
    M: int
    N: int
    K: int


@dataclass(frozen=True)
class Winner:
    """The candidate that is best for a product, and for all with rows from first_M to its M."""

    product: Product
    first_M: int
    name: str
    origin: str  # who measured it, and how

    def goes_on(self, product: Product, first_M: int, name: str) -> bool:
        """Whether one row serves for this winner and for that of the range of M after it."""
        alike = replace(product, M=self.product.M) == self.product and name == self.name
        return alike and first_M == self.product.M + 1


def _still_counts(
    old: Mapping[str, Any], new: Iterable[Mapping[str, Any]], kind: Iterable[str]
) -> bool:
    """Whether a row of a table is the first that fits some M, after new rows of its kind."""
    first = old["first_M"]
    last = math.inf if old["last_M"] is None else old["last_M"]
    alike = (row for row in new if all(row[key] == old[key] for key in kind))
    for begin, end in sorted((row["first_M"], row["last_M"]) for row in alike):
        if begin <= first:
            first = max(first, end + 1)
    return first <= last


class Tunable(Protocol):
    """A choice among ways to launch a product."""

    variable: str  # of the environment: names a table to use

    def candidates(self, product: Product) -> Sequence[str]:
        """Return the names of what could be chosen."""

    def use(self, name: str | None) -> Any:
        """Return a context within which a product is launched by this one; None: as it is now."""

    def read(self, path: Path) -> Sequence[Any]:
        """Return the rows of a table, none where there is no file; ValueError if it is wrong."""

    def save(self, winners: Sequence[Winner], path: Path) -> None:
        """Write them to a table, before the rows that it has, and read it back.

        Of those, the first that fits a product counts; such as never will any more are left out.
        """


class Tiles:
    """The tiles of Triton's int8_matmul."""

    variable = "GREEN_KERNELS_TILES"

    def __init__(self, device: torch.device):
        """Take the device, whose architecture decides what is possible."""
        from green_kernels.triton_kernels import int8_matmul, int8_matmul_tiles

        self.tiles = int8_matmul_tiles
        arch = int8_matmul_tiles.table_arch(int8_matmul.gpu_of(device)[0])
        self.rows: dict[str, Any] = {}  # by name
        for m, n, k, warps, stages, persistent in itertools.product(*CHOICES):
            name = f"{m}x{n}x{k}, {warps} warps, {stages} stages{', persistent' * persistent}"
            values = {
                "arch": arch, "first_M": 1, "last_M": None, "N": None, "K": None, "heavy": None,
                "least_tiles": 1, "BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP_M": 8,
                "num_warps": warps, "num_stages": stages, "persistent": persistent, "origin": name,
            }  # fmt: skip
            if m * n // (32 * warps) in SUMS:
                with suppress(ValueError):  # it does not fit shared memory, or must not be here
                    self.rows[name] = int8_matmul_tiles.row(values, name)

    def candidates(self, product: Product) -> list[str]:
        """Return the tiles that suit M and K, and that the operands allow."""
        return [
            name
            for name, row in self.rows.items()
            if row.BLOCK_M < max(32, 2 * product.M)  # no more rows than there are
            and row.BLOCK_M * row.BLOCK_N >= min(64, product.M) * 64  # of many, no sliver
            and row.BLOCK_K < max(256, 2 * product.K)
            and not (row.persistent and product.K % 16)
        ]

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """Within this block, compute products in Triton, by a tile of `candidates`."""
        with ops.use("triton"):
            if name is None:
                yield
                return
            with self.tiles.use(self.rows[name]):
                yield

    def read(self, path: Path) -> Sequence[Any]:
        """Return the rows of a table of tiles, if it is there."""
        return self.tiles.read(path) if path.exists() else ()

    def save(self, winners: Sequence[Winner], path: Path) -> None:
        """Write rows of tiles, with their origins."""
        rows = [
            replace(
                self.rows[w.name],
                first_M=w.first_M,
                last_M=w.product.M,
                N=w.product.N,
                K=w.product.K,
                heavy=bool(w.product.N % 16 or w.product.K % 16),
                origin=w.origin,
            )  # fmt: skip
            for w in winners
        ]
        new, kind = [asdict(row) for row in rows], ("arch", "N", "K", "heavy")
        rows += [old for old in self.read(path) if _still_counts(asdict(old), new, kind)]
        self.tiles.write(path, rows)
        self.read(path)


class Plans:
    """The plans of the compiled CUDA kernels."""

    variable = "GREEN_KERNELS_PLANS"

    def __init__(self, device: torch.device):
        """Take the device, whose plans are looked for; Unavailable where it has none."""
        self.gpu = ops.gpu_of(device)
        if self.gpu is None:
            raise Unavailable("no CUDA kernels were compiled, so they have no plans to tune")

    def candidates(self, product: Product) -> list[str]:
        """Return all plans; of those that are not possible, a call says so."""
        return list(ops.PLANS)

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """Within this block, compute products by the compiled kernels, and a plan of that name."""
        with ops.use("compiled"):
            if name is None:
                yield
                return
            with ops.use_plan(name):
                yield

    def read(self, path: Path) -> Sequence[Any]:
        """Return the rows of a table of measured plans, if it is there."""
        return ops.read_measured_plans(path) if path.exists() else []

    def save(self, winners: Sequence[Winner], path: Path) -> None:
        """Write rows of plans, with their origins."""
        new = [self._row(winner) for winner in winners]
        kind = ("arch", "sm_count", "memory", "N", "K", "from_float")
        rows = new + [old for old in self.read(path) if _still_counts(old, new, kind)]
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        self.read(path)

    def _row(self, winner: Winner) -> dict[str, Any]:
        gpu, product = self.gpu, winner.product
        return {
            "arch": gpu.arch, "sm_count": gpu.sm_count, "memory": gpu.memory,
            "first_M": winner.first_M, "last_M": product.M, "N": product.N, "K": product.K,
            "from_float": product.op == "int8_linear", "plan": winner.name,
            "origin": winner.origin,
        }  # fmt: skip


TUNABLES = {"compiled": Plans, "triton": Tiles}  # by kernels
