"""The command line of the bench."""

import argparse
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from . import machine
from .case import WAYS, Entry, load_cases
from .markdown import markdown
from .record import CorruptRecord, Record, read, write
from .report import print_report
from .runner import Runner, find_meter

DESCRIPTION = "Time and joules of each op and of a model, against their peers."
EPILOG = "`python -m bench report FILE` prints the tables of records that --json wrote before."


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run, print; return 1 if a way of ours was wrong."""
    arguments = list(argv) if argv is not None else None
    entries = load_cases()
    options = _parse(entries, arguments)
    if options.cases[:1] == ["report"]:
        if options.markdown:
            print(markdown(options.records), end="")
        else:
            print_report(options.records)
        return 0
    torch.set_num_threads(options.threads)
    runner = Runner(
        options.device,
        find_meter(options.device),
        seconds=options.seconds,
        rounds=options.rounds,
        ways=options.way,
        assumed_watts=options.assume_watts,
        machine=machine.facts(options.device),
    )
    records = _run(runner, options.chosen, options.json)
    print_report(records)
    wrong = [r for r in records if r.status == "refused" and r.way.startswith("ours")]
    return 1 if wrong else 0


def _run(runner: Runner, chosen: dict[tuple[str, str], Entry], path: Path | None) -> list[Record]:
    """Run the chosen cases; write the records of each as soon as it is done."""
    records: list[Record] = []
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(chosen))
        for (name, shape), entry in chosen.items():
            if not console.is_terminal:
                console.print(f"{name} {shape}")
            runner.progress = lambda step, head=f"{name} {shape}": progress.update(
                bar, description=f"{head}: {step}"
            )
            runner.progress("building")
            torch.manual_seed(0)
            done = runner.run(name, shape, entry.build(runner.device))
            if path is not None:
                write(done, path)
            records += done
            progress.advance(bar)
    return records


def _parse(entries: dict[tuple[str, str], Entry], argv: list[str] | None) -> argparse.Namespace:
    """Return the options; `chosen` holds the cases to run, or `records` those to print."""
    names = list(dict.fromkeys(name for name, _ in entries))
    parser = argparse.ArgumentParser("python -m bench", description=DESCRIPTION, epilog=EPILOG)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument(
        "cases", nargs="*", metavar="case", help=f"of {', '.join(names)}; all, if none is named"
    )
    parser.add_argument("--shape", metavar="NAME", help="only the shape of this name")
    parser.add_argument(
        "--way", action="append", default=[], metavar="NAME", choices=WAYS,
        help=f"only this way and the baseline; may be repeated; of {', '.join(WAYS)}",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=_positive, default=1.0,
        help="to time each way of a case for, over all rounds (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=_count, default=7, help="in each of which all ways take a turn"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="append records to this file")
    parser.add_argument(
        "--threads", type=_count, default=min(2, cores or 1), help="of the CPU (default: 2)"
    )
    parser.add_argument(
        "--assume-watts", type=_positive, metavar="W",
        help="add a column of joules that this many watts would make; never a measurement",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="with report: print Markdown, as for a README"
    )
    options = parser.parse_args(argv)
    if options.cases[:1] == ["report"]:
        _refuse_options(parser, argv, vars(options).keys() - {"cases", "markdown"})
        options.records = _read_records(parser, options.cases[1:])
    else:
        if options.markdown:
            parser.error("argument --markdown: goes with report")
        options.chosen = _choose(parser, entries, names, options)
        _check_machine(parser, options)
    return options


def _refuse_options(parser, argv: list[str] | None, names: Iterable[str]) -> None:
    """End with the first of these options that was given, be it with its default."""
    parser.set_defaults(**dict.fromkeys(names))
    given = vars(parser.parse_args(argv))
    for name in given:
        if name in names and given[name] is not None:
            parser.error(f"argument --{name.replace('_', '-')}: does not go with report")


def _choose(parser, entries, names, options) -> dict[tuple[str, str], Entry]:
    for name in options.cases:
        if name not in names:
            parser.error(f"unknown case {name!r}; cases are {', '.join(names)}")
    named = {key: entry for key, entry in entries.items() if key[0] in (options.cases or names)}
    shapes = list(dict.fromkeys(shape for _, shape in named))
    if options.shape is not None:
        if options.shape not in shapes:
            parser.error(f"unknown shape {options.shape!r}; shapes are {', '.join(shapes)}")
        return {key: entry for key, entry in named.items() if key[1] == options.shape}
    if options.cases:
        return named
    return {key: entry for key, entry in named.items() if entry.default}


def _check_machine(parser, options) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch finds no CUDA device here; use cpu")
    if options.json is not None:  # rather now than after minutes of running
        try:
            options.json.open("a").close()
        except OSError as error:
            parser.error(f"argument --json: cannot write {options.json}: {error.strerror}")


def _read_records(parser, files: list[str]) -> list[Record]:
    if len(files) != 1:
        parser.error(f"report takes one file of records, got {len(files)}")
    try:
        return read(files[0])
    except OSError as error:
        parser.error(f"cannot read {files[0]}: {error.strerror}")
    except CorruptRecord as error:
        parser.error(str(error))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return value
