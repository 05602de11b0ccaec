"""The tile of a product: of the table's rows, the first that fits M, N, K and the GPU.

The rows are those of int8_matmul_tiles.json. Rows of a file that GREEN_KERNELS_TILES names, such as
`python -m bench tune` writes, come before them.
"""

import functools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

COMMITTED = Path(__file__).parent / "int8_matmul_tiles.json"
# Bytes of shared memory that a block may have, by architecture (CUDA C++ Programming Guide,
# "Technical Specifications per Compute Capability"), and what barriers may take of it.
SHARED_MEMORY = {arch: kb * 1024 for arch, kb in
                 {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}.items()}  # fmt: skip
BARRIERS = 1024


@dataclass(frozen=True)
class Row:
    """A tile, and the products that it is for: first_M <= M <= last_M, and N and K if given."""

    arch: int  # as 90
    first_M: int
    last_M: int | None  # None: there is none
    N: int | None  # None: any
    K: int | None
    # Whether a sum needs many registers, as float64 activations do, and rows that do not begin at
    # multiples of 16 bytes, of which each value has an address. None: either.
    heavy: bool | None
    least_tiles: int  # that y must have, so that all multiprocessors are busy
    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    GROUP_M: int  # tiles of rows that share the columns of w_q in L2
    num_warps: int
    num_stages: int
    persistent: bool  # by tensor descriptors, in programs that compute tile on tile
    origin: str  # why this tile: who measured it and how, or what it was derived from

    def fits(self, M: int, N: int, K: int, heavy: bool) -> bool:
        """Whether it is for this product, the GPU apart."""
        return (
            self.first_M <= M <= (self.last_M or M)
            and self.N in (None, N)
            and self.K in (None, K)
            and self.heavy in (None, heavy)
            and -(-M // self.BLOCK_M) * -(-N // self.BLOCK_N) >= self.least_tiles
        )

    @property
    def shared_bytes(self) -> int:
        """The most shared memory that stages and barriers take; what converts y may take more."""
        return self.num_stages * (self.BLOCK_M + self.BLOCK_N) * self.BLOCK_K + BARRIERS

    @property
    def resident(self) -> int:
        """How many programs the shared memory of a multiprocessor holds."""
        return SHARED_MEMORY[self.arch] // self.shared_bytes


def _power_of_2(least: int, most: int) -> tuple[Callable[[Any], bool], str]:
    allowed = [least << i for i in range((most // least).bit_length())]
    return lambda value: value in allowed, f"a power of 2 from {least} to {most}"


def _count(most: int = 2**31 - 1) -> tuple[Callable[[Any], bool], str]:
    return lambda value: 1 <= value <= most, f"an integer from 1 to {most}"


# What a value must be, by field. tl.dot takes 16 rows or more, and 32 values of int8 deep.
RULES = {
    "arch": (lambda value: value in SHARED_MEMORY, f"one of {', '.join(map(str, SHARED_MEMORY))}"),
    **dict.fromkeys(("first_M", "last_M", "N", "K", "least_tiles"), _count()),
    **dict.fromkeys(("BLOCK_M", "BLOCK_N"), _power_of_2(16, 256)),
    "BLOCK_K": _power_of_2(32, 512),
    "GROUP_M": _count(64),
    "num_warps": _power_of_2(1, 16),
    "num_stages": _count(8),
    **dict.fromkeys(("heavy", "persistent"), (lambda value: True, "true or false")),
    "origin": (bool, "a text that says where the tile came from"),
}


def row(values: Any, where: str) -> Row:
    """Return the row that a JSON object stands for; ValueError begins with `where`."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be an object, got {values!r}")
    known = {field.name: field.type for field in fields(Row)}
    for name in [*(known.keys() - values.keys()), *(values.keys() - known.keys())]:
        problem = "is missing" if name in known else f"is none of {', '.join(known)}"
        raise ValueError(f"{where}: {name} {problem}")
    for name, kind in known.items():
        accepts, words = RULES[name]
        value, optional = values[name], kind not in (int, bool, str)
        if value is None and optional:
            continue
        kind = bool if name == "heavy" else kind if not optional else int
        if type(value) is not kind or not accepts(value):
            words += " or null" if optional else ""
            raise ValueError(f"{where}: {name} must be {words}, got {value!r}")
    found = Row(**values)
    if found.last_M is not None and found.last_M < found.first_M:
        raise ValueError(f"{where}: last_M must be at least first_M, got {found.last_M}")
    if found.persistent and found.arch < 90:
        raise ValueError(f"{where}: persistent needs arch 90 or later, got {found.arch}")
    if found.arch == 90 and found.BLOCK_M >= 64 and not found.persistent:
        why = "wgmma reads what was loaded by pointers, which Triton 3.6 does not fence"
        raise ValueError(f"{where}: persistent must be true for BLOCK_M from 64 on arch 90: {why}")
    if (limit := SHARED_MEMORY[found.arch]) < found.shared_bytes:
        need = f"{found.shared_bytes} bytes of shared memory for its stages"
        raise ValueError(f"{where}: num_stages must fit {limit} bytes, got a tile with {need}")
    return found


def read(path: str | Path) -> tuple[Row, ...]:
    """Return the rows of a table, a JSON list of objects with all of Row's fields.

    ValueError that names the file, the row and the field at fault.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} must be a JSON list, got {type(rows).__name__}")
    return tuple(row(values, f"{path}, row {index}") for index, values in enumerate(rows))


def write(path: str | Path, rows: Sequence[Row]) -> None:
    """Write a table that `read` reads."""
    lines = ",\n".join(f"  {json.dumps(asdict(one))}" for one in rows)
    Path(path).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


@functools.cache
def table() -> tuple[Row, ...]:
    """Return all rows, in the order in which they are tried; read when it is first asked for."""
    named = os.environ.get("GREEN_KERNELS_TILES")
    try:
        first = read(named) if named else ()
    except (OSError, ValueError) as error:
        raise ValueError(f"GREEN_KERNELS_TILES: {error}") from error
    return (*first, *read(COMMITTED))


_forced: Row | None = None  # for every product: a tile that is being tried out


@contextmanager
def use(tile: Row):
    """Within this block, launch every product by this tile, whatever the table says."""
    global _forced
    before, _forced = _forced, tile
    try:
        yield
    finally:
        _forced = before


def table_arch(arch: int) -> int:
    """Return the architecture whose rows a GPU has: its own, or the last before it that has any."""
    return max(known for known in SHARED_MEMORY if known <= max(arch, 80))


def choose(M: int, N: int, K: int, arch: int, heavy: bool) -> Row:
    """Return the row for a product with M >= 1."""
    return _first(M, N, K, arch, heavy) if _forced is None else _forced


@functools.lru_cache(4096)  # on the way of every launch
def _first(M: int, N: int, K: int, arch: int, heavy: bool) -> Row:
    arch = table_arch(arch)
    return next(one for one in table() if one.arch == arch and one.fits(M, N, K, heavy))


def forget() -> None:
    """Have the tables read anew when a row is next asked for."""
    table.cache_clear()
    _first.cache_clear()
