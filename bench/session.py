"""A run of several cases: in the time there is, with a bar that says how much is left."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from .case import Entry
from .record import Record
from .runner import Runner


def run(
    runner: Runner, chosen: Mapping[tuple[str, str], Entry], budget: float | None, console: Console
) -> Iterator[list[Record]]:
    """Yield the records of each case as soon as it is done.

    budget: seconds for all. Each case may use its share of what is left, by its weight, the
    heaviest first; what it leaves goes to those after it, and what does not fit is recorded as
    not run.
    """
    clock = runner.device.clock
    start = clock()
    chosen = dict(sorted(chosen.items(), key=lambda item: -item[1].weight))
    weights = [entry.weight for entry in chosen.values()]
    with _bar(console, budget or sum(weights)) as advance:
        for number, ((name, shape), entry) in enumerate(chosen.items()):
            deadline = None
            if budget is not None:
                now = clock()
                left = start + budget - now
                deadline = now + left * weights[number] / sum(weights[number:])
            head = f"{name} {shape}"

            def progress(step: str, head: str = head, number: int = number) -> None:
                spent = clock() - start if budget else sum(weights[:number])
                advance(f"{head}: {step}", spent)

            runner.progress = progress
            yield runner.run(name, shape, entry.build, deadline)
        advance("done", budget or sum(weights))


@contextmanager
def _bar(console: Console, total: float) -> Iterator:
    """Give a function of a text and how much is done; without a terminal, lines of heads."""
    if not console.is_terminal:
        seen = set()

        def say(text: str, done: float) -> None:
            head = text.partition(":")[0]
            if head not in seen:
                seen.add(head)
                console.print(head, highlight=False)

        yield say
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)
        yield lambda text, done: progress.update(task, description=text, completed=done)
