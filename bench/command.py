"""The command line of the bench."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from rich.console import Console

from green_kernels import carbon

from . import device, machine, ranks, session
from .case import load_cases
from .grid import Grid
from .options import parse, read_records
from .record import Record, write
from .report import print_report, wide_console
from .runner import Runner


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and do what it says; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv = ["run", *argv]
    options = parse(load_cases(), argv)
    try:
        status = COMMANDS[options.command](options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted; records that were written are whole", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read this has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ModuleNotFoundError) as error:
        options.error(str(error))


def _run(options: argparse.Namespace) -> int:
    """Run cases; 1 if a way of ours was wrong."""
    torch.set_num_threads(options.threads)
    grams = _grid(options)
    ranks.join()
    try:
        records = _records(options)
    finally:
        ranks.leave()
    if records is None:  # rank 0 has them
        return 0
    to_pipe = options.json == "-"
    console = wide_console(stderr=True) if to_pipe else wide_console()
    print_report(records, console, grams=grams)
    for line in ranks.sums(records):
        console.print(line, markup=False)
    wrong = [r for r in records if r.status == "refused" and r.way.startswith("ours")]
    return 1 if wrong else 0


def _records(options: argparse.Namespace) -> list[Record] | None:
    """Run the chosen cases; give the records of each on as soon as it is done on all ranks."""
    records: list[Record] = []
    for done in ranks.gathered(_cases(options)):
        if not done:
            continue
        if options.json == "-":
            print(*(record.json() for record in done), sep="\n", flush=True)
        elif options.json is not None:
            write(done, options.json)
        records += done
    return records if ranks.rank() == 0 else None


def _cases(options: argparse.Namespace) -> Iterator[list[Record]]:
    """Run the chosen cases on this process's device."""
    name = ranks.device(options.device)
    tested = device.find(name)
    runner = Runner(
        tested,
        _protocol(options),
        ways=options.way,
        dtypes=options.dtype,
        recipe=options.data,
        seed=options.seed,
        assumed_watts=options.assume_watts,
        machine=machine.facts(name) | tested.facts(),
    )
    console = Console(stderr=True, quiet=ranks.rank() > 0)
    yield from session.run(runner, options.chosen, options.budget, console)


def _protocol(options: argparse.Namespace):
    given = {"seconds": options.seconds, "rounds": options.rounds}
    return replace(options.protocol, **{key: v for key, v in given.items() if v is not None})


def _grid(options: argparse.Namespace) -> Grid | None:
    """Return the grid that the options name; None if they name none."""
    if options.country is None and options.intensity is None:
        return None
    try:
        if options.country is not None:
            grid = Grid(carbon.Intensity.of_country(options.country), options.pue or 1.0)
        else:
            grid = Grid(carbon.Intensity(options.intensity), options.pue or 1.0)
        grid(0.0)  # says what is wrong, rather now than after minutes of running
    except (carbon.Unavailable, ValueError) as error:
        options.error(str(error))
    return grid


def _list(options: argparse.Namespace) -> int:
    """Print a line for each shape of each case."""
    for (name, shape), entry in options.chosen.items():
        marks = "" if entry.default else "\tnot by default"
        print(f"{name}\t{shape}{marks}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from . import html, markdown

    if options.update is not None:
        try:
            changed = markdown.update(options.update)
        except ValueError as error:
            options.error(f"argument --update: {error}")
        print(f"{options.update}: {'updated' if changed else 'up to date'}")
        return 0
    if not options.paths:
        options.error("report takes files of records, or folders of them")
    records = [record for path in options.paths for record in read_records(options, path)]
    grams = _grid(options)
    if options.markdown:
        print(markdown.markdown(records), end="")
        return 0
    print_report(records, grams=grams)
    if not options.tables:
        for path in html.write(records, options.out, grams=grams):
            print(f"wrote {path}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from . import compare

    before, after = (read_records(options, path) for path in (options.before, options.after))
    verdicts = compare.compare(before, after, threshold=options.threshold)
    compare.print_verdicts(verdicts, compare.warnings(before, after))
    return compare.exit_code(verdicts)


def _check(options: argparse.Namespace) -> int:
    from . import check

    problems = check.check(options.folder)
    for problem in problems:
        print(problem)
    print(f"{options.folder}: {'rejected' if problems else 'accepted'}")
    return 1 if problems else 0


def _sensor(options: argparse.Namespace) -> int:
    from . import sensor

    return sensor.run(options)


def _sweep_clocks(options: argparse.Namespace) -> int:
    from . import sweep

    return sweep.run(options)


def _tune(options: argparse.Namespace) -> int:
    from . import tune

    return tune.run(options)


COMMANDS = {
    "run": _run,
    "list": _list,
    "report": _report,
    "compare": _compare,
    "check": _check,
    "sensor": _sensor,
    "sweep-clocks": _sweep_clocks,
    "tune": _tune,
}
