"""Report: what convert did, layer by layer, as a table."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One layer: what it was, and what it became or why it was left.

    name: as in named_modules();  also: further names of the same module
    became: class name, or None where it was left, for the reason given
    bytes_before, bytes_after: in memory; after converting with the packed copy of the weights
    caveat: of one that was converted, where it is slower than it was, as far as that is known
    """

    name: str
    was: str
    became: str | None
    reason: str | None
    bytes_before: int
    bytes_after: int
    also: tuple[str, ...] = ()
    caveat: str | None = None


@dataclass(frozen=True)
class Report:
    """Every linear layer of a model in the order of named_modules(). Prints as a table."""

    changes: tuple[Change, ...]

    @property
    def converted(self) -> tuple[Change, ...]:
        """The layers that became something else."""
        return tuple(change for change in self.changes if change.became is not None)

    @property
    def left(self) -> tuple[Change, ...]:
        """The layers that are as they were, each with its reason."""
        return tuple(change for change in self.changes if change.became is None)

    @property
    def bytes_before(self) -> int:
        """Bytes that these layers held before."""
        return sum(change.bytes_before for change in self.changes)

    @property
    def bytes_after(self) -> int:
        """Bytes that these layers hold now."""
        return sum(change.bytes_after for change in self.changes)

    def __iter__(self) -> Iterator[Change]:
        """The layers."""
        return iter(self.changes)

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self.changes)

    def __getitem__(self, name: str) -> Change:
        """The layer of that name. KeyError where there is none."""
        for change in self.changes:
            if name == change.name or name in change.also:
                return change
        raise KeyError(name)

    def __str__(self) -> str:
        """A row for each layer, and the totals."""
        head = ("layer", "was", "became", "bytes before", "after")
        total = f"{len(self.converted)} converted, {len(self.left)} left"
        foot = (total, "", "", f"{self.bytes_before:,}", f"{self.bytes_after:,}")
        rows = [head, *map(_cells, self.changes), foot]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [_line(row, widths) for row in rows]
        rule = "─" * (sum(widths) + 2 * len(widths) - 2)
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _cells(change: Change) -> tuple[str, ...]:
    name = " = ".join((change.name, *change.also))
    became = change.became or f"left: {change.reason}"
    if change.caveat:
        became += f" ({change.caveat})"
    return name, change.was, became, f"{change.bytes_before:,}", f"{change.bytes_after:,}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    texts = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
    sizes = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
    return "  ".join(texts + sizes)
