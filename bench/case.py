"""A case is one op, or a model, at one shape, and the ways of doing it that are to be compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

# One vocabulary of ways, so that a ratio can be taken over cases and --way can be checked.
WAYS = (
    "torch fp32",
    "torch bf16",
    "torch compiled",
    "torch._int_mm",
    "quantize_dynamic (onednn)",
    "torchao int8",
    "torchao int8 compiled",
    "ours",
    "ours, all layers",
    "ours bf16",
    "ours bf16, all layers",
    "ours + torch.compile",
    "ours triton",
    "torch._int_mm bare",
    "torch._int_mm compiled",
    "bitsandbytes int8",
    "ours, as converted",
)


class Unavailable(Exception):
    """This way cannot be had here; the message is the reason, and what to install or use."""


def largest_error(output: Tensor, expected: Tensor) -> float:
    """max|output - expected| / max|expected|, in float32; without the quotient if all are zero."""
    output, expected = output.float(), expected.float()
    error, size = (output - expected).abs().max(), expected.abs().max()
    return (error if size == 0 else error / size).item()


@dataclass(frozen=True)
class Way:
    """One way of doing it, ready to be called; what differs from the case's own figures."""

    call: Callable[[], Any]
    dtype: str | None = None  # None: the case's
    tolerance: float | None = None  # None: the case's
    extra: Mapping[str, float] = field(default_factory=dict)  # bytes and counts, by name
    executed_flops: int | None = None  # where zeros are skipped; None: the case's flops
    # How good a model's answers are, by metric ("perplexity"), on data of its own; None: not asked.
    quality: Callable[[], Mapping[str, float]] | None = None
    # Of a way that leaves some of the work undone: does it, so that the rest is checked. Not timed.
    finish: Callable[[Any], Any] = lambda output: output


@dataclass(frozen=True)
class Case:
    """What a case function returns. Every way must compute what the first one does."""

    dtype: str  # of what goes in and comes out: "float32"
    flops: int  # of the mathematics, so the same for every way of doing it; 2 per multiply-add
    bytes: int  # that must move at the least, with the op's own formats
    tolerance: float  # the largest error that is not a fault
    # By name; the first is the baseline. Each is built only when it is wanted, and may raise
    # Unavailable. A bare callable stands for Way(callable).
    ways: Mapping[str, Callable[[], Way | Callable[[], Any]]]
    output: Callable[[Any], Tensor] = lambda output: output  # what of a way's result is compared
    error: Callable[[Tensor, Tensor], float] = largest_error
    kind: str = "op"  # or "model", whose error must be 1 - mean cosine: which table it goes to
    items: Mapping[str, float] = field(default_factory=dict)  # per call: "tokens", "samples"
    data: str | None = None  # what its inputs are, where the recipe does not reach; None: it does
    graph: bool = True  # on a GPU, replayed from a CUDA graph; False where the call is the point

    def __post_init__(self):
        """Refuse names outside the vocabulary."""
        unknown = [name for name in self.ways if name not in WAYS]
        if unknown:
            raise ValueError(f"ways must be among {WAYS}, got {unknown}")

    @classmethod
    def unavailable(cls, kind: str, reason: Unavailable) -> "Case":
        """Return a case that lacks what all its ways need, so that each says the reason."""

        def missing():
            raise reason

        ways = dict.fromkeys(("torch fp32", "ours"), missing)
        return cls(dtype="float32", flops=0, bytes=0, tolerance=0.0, ways=ways, kind=kind)


@dataclass(frozen=True)
class Entry:
    """A registered case: how to build it on a device, and what is known of it before."""

    build: Callable[[str], Case]
    default: bool  # whether it runs when none is named
    weight: float = 1.0  # of a run's time that it needs, relative to an op's
    kind: str = "op"  # the case's
    ways: tuple[str, ...] = ()  # the case's, in its order; empty where only the case knows
    by_shape: bool = False  # one of so many that it runs only where a shape is named


CASES: dict[tuple[str, str], Entry] = {}  # by case and shape name


def case(
    default: bool = True,
    by_shape: bool = False,
    weight: float = 1.0,
    kind: str = "op",
    ways: tuple[str, ...] = (),
    **shapes: tuple,
) -> Callable:
    """Register a function under its name, once for each named shape.

    default: False for shapes that run only when their case is asked for by name.
    by_shape: True for those that run only when --shape asks for them.
    weight: of a run's time that it needs, relative to an op's.
    kind: "op" or "model", as the case has it.
    ways: of an op, by name, in the case's order: pytest lists them without building the case.
    shapes: arguments of the function by name of the shape; the device comes last.
    """

    def register(build: Callable[..., Case]) -> Callable[..., Case]:
        for shape, sizes in shapes.items():
            CASES[build.__name__, shape] = Entry(
                lambda device, sizes=sizes: build(*sizes, device),
                default=default and not by_shape,
                by_shape=by_shape,
                weight=weight,
                kind=kind,
                ways=ways,
            )
        return build

    return register


def load_cases() -> dict[tuple[str, str], Entry]:
    """Import every module in cases/, each of which registers its own."""
    for module in sorted((Path(__file__).parent / "cases").glob("[!_]*.py")):
        import_module(f"{__package__}.cases.{module.stem}")
    return CASES
