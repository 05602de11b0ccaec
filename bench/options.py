"""The options of each command, and what is wrong with those that were given."""

import argparse
import os
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import torch

from .case import WAYS, Entry
from .data import RECIPES
from .protocol import FULL, QUICK
from .record import Record, read
from .schema import CorruptRecord
from .tunables import TUNABLES
from .values import count, duration, fraction, natural, natural_number, positive, rows, shape

DESCRIPTION = "Time and joules of each op and of models, against their peers."
EPILOG = "Without a command: run --quick, of this machine's device. Each command has its --help."
QUICK_BUDGET = 150.0  # seconds, where no case is named: under three minutes with the imports
DTYPES = ("float32", "float16", "bfloat16")
COMMANDS = ("run", "list", "report", "compare", "check", "sensor", "sweep-clocks", "tune")


def parse(entries: Mapping[tuple[str, str], Entry], argv: list[str]) -> argparse.Namespace:
    """Return the options of a command line; `chosen` holds the cases to run, by name and shape."""
    parser = argparse.ArgumentParser("python -m bench", description=DESCRIPTION, epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run cases, print tables, append records")
    _add_cases(run, entries)
    _add_way(run)
    run.add_argument(
        "--dtype", action="append", default=[], choices=DTYPES,
        help="only ways of this dtype and the baseline; may be repeated",
    )  # fmt: skip
    _add_device(run)
    _add_run(run)

    listing = commands.add_parser("list", help="the cases and their shapes")
    _add_cases(listing, entries)

    report = commands.add_parser("report", help="tables, plots and a page of records")
    report.add_argument("paths", nargs="*", metavar="FILE", help="records, or a folder of them")
    report.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("report"),
        help="where report.html, the plots and tables.md go (default: %(default)s)",
    )  # fmt: skip
    report.add_argument("--tables", action="store_true", help="print tables, write nothing")
    report.add_argument("--markdown", action="store_true", help="print Markdown, write nothing")
    report.add_argument(
        "--update", metavar="README", type=Path,
        help="print the records that its markers name between them, in place",
    )  # fmt: skip
    _add_carbon(report)

    compare = commands.add_parser(
        "compare", help="SAME, BETTER, WORSE or UNSURE; 1 if any is WORSE"
    )
    compare.add_argument("before", metavar="A", help="records, or a folder of them")
    compare.add_argument("after", metavar="B", help="likewise")
    compare.add_argument(
        "--threshold", type=fraction, default=0.02,
        help="relative change that is none (default: %(default)s)",
    )  # fmt: skip

    check = commands.add_parser("check", help="accept or reject a folder of results")
    check.add_argument("folder", metavar="DIR", type=Path)

    sensor = commands.add_parser("sensor", help="what the energy counter of this device is worth")
    _add_device(sensor)
    sensor.add_argument("--refresh", action="store_true", help="measure again what is cached")
    sensor.add_argument(
        "--coverage", action="store_true", help="test whether it samples all of the time"
    )
    sensor.add_argument("--json", metavar="FILE", type=Path, help="write it there too")

    sweep = commands.add_parser("sweep-clocks", help="the clock of least joules per operation")
    _add_cases(sweep, entries)
    _add_way(sweep)
    _add_device(sweep)
    _add_sweep(sweep)

    tune = commands.add_parser("tune", help="the best launches on this GPU, as a table")
    _add_tune(tune)

    options = parser.parse_args(argv)
    if hasattr(options, "cases"):
        options.chosen = _choose(parser, entries, options)
    if options.command == "run":
        _check_run(parser, options)
    if "pue" in options:
        _check_carbon(parser, options)
    if hasattr(options, "device") and options.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch finds no CUDA device here; use cpu")
    options.error = parser.error
    return options


def _add_cases(parser, entries) -> None:
    names = ", ".join(dict.fromkeys(name for name, _ in entries))
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {names}")
    parser.add_argument(
        "--shape", metavar="NAME", help="only shapes of this name; * stands for any"
    )


def _add_way(parser) -> None:
    parser.add_argument(
        "--way", action="append", default=[], metavar="NAME", choices=WAYS,
        help=f"only this way and the baseline; may be repeated; of {', '.join(WAYS)}",
    )  # fmt: skip


def _add_device(parser) -> None:
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu",
        help="(default here: %(default)s)",
    )  # fmt: skip


def _add_run(parser) -> None:
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--quick", dest="protocol", action="store_const", const=QUICK, default=QUICK,
        help="times, and one short window of joules for each way (the default)",
    )  # fmt: skip
    modes.add_argument(
        "--full", dest="protocol", action="store_const", const=FULL,
        help="the whole protocol: gates, warm-up, ten or more windows of 5 s for each way",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=duration, metavar="TIME",
        help="such as 8m or 90s: no more is started after it (default of a quick run of all: 150s)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=positive, help="to time each way of a case for, over all rounds"
    )
    parser.add_argument("--rounds", type=count, help="in each of which all ways take a turn")
    parser.add_argument(
        "--no-joules", action="store_true", help="times alone, which takes a tenth of the time"
    )
    parser.add_argument(
        "--data", choices=RECIPES, default=RECIPES[0],
        help="what the inputs are: random, a model's own activations, or zeros",
    )  # fmt: skip
    parser.add_argument("--seed", type=natural, default=0, help="of the inputs (default: 0)")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="append records to this file; - prints them, tables to stderr",
    )
    parser.add_argument(
        "--threads", type=count, default=min(2, _cores()), help="of the CPU (default: %(default)s)"
    )
    parser.add_argument(
        "--assume-watts", type=positive, metavar="W",
        help="add a column of joules that this many watts would make; never a measurement",
    )  # fmt: skip
    _add_carbon(parser)


def _add_carbon(parser) -> None:
    grid = parser.add_mutually_exclusive_group()
    grid.add_argument(
        "--intensity", type=natural_number, metavar="G", help="of the grid, gCO2e/kWh: adds gCO2e"
    )
    grid.add_argument("--country", metavar="ISO", help="whose grid it is; needs the [carbon] extra")
    parser.add_argument(
        "--pue", type=positive, help="power usage effectiveness (default: 1, IT only)"
    )


def _add_sweep(parser) -> None:
    parser.add_argument(
        "--slowdown", type=positive, default=0.1, help="the most that is accepted (default: 0.1)"
    )
    parser.add_argument("--points", type=count, default=8, help="clocks to try (default: 8)")
    parser.add_argument(
        "--set-clocks", action="store_true",
        help="really lock this GPU's clocks, one after the other, and unlock them; else only plan",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="append the points to this file")


def _add_tune(parser) -> None:
    parser.add_argument("op", choices=("int8_matmul", "int8_linear"))
    parser.add_argument(
        "--kernels", choices=tuple(TUNABLES), default="compiled",
        help="whose launches: plans of the compiled ones, or tiles of Triton's (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--shape", dest="shapes", metavar="NxK", type=shape, action="append", required=True,
        help="of a weight, as 4096x11008: outputs by inputs; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--rows", metavar="FIRST:LAST", type=rows, default=(1, 8192),
        help="of x: one row of the table up to each power of two (default: 1:8192)",
    )  # fmt: skip
    parser.add_argument(
        "--by", choices=("time", "joules"), default="time", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--budget", type=duration, metavar="TIME", help="such as 8m: no more is tried after it"
    )
    parser.add_argument(
        "--table", metavar="FILE", type=Path, required=True,
        help="to write; of the rows that it has, those that new ones replace are left out",
    )  # fmt: skip


def _choose(parser, entries, options) -> dict[tuple[str, str], Entry]:
    names = list(dict.fromkeys(name for name, _ in entries))
    for name in options.cases:
        if name not in names:
            hint = "; the commands are " + ", ".join(COMMANDS) if options.command == "run" else ""
            parser.error(f"unknown case {name!r}; cases are {', '.join(names)}{hint}")
    named = {key: entry for key, entry in entries.items() if key[0] in (options.cases or names)}
    if options.shape is not None:
        found = {key: entry for key, entry in named.items() if fnmatch(key[1], options.shape)}
        if not found:
            few = [shape for (_, shape), entry in named.items() if not entry.by_shape]
            more = " (and more, see `list`)" if len(few) < len(named) else ""
            shapes = ", ".join(dict.fromkeys(few))
            parser.error(f"unknown shape {options.shape!r}; shapes are {shapes}{more}")
        return found
    if options.command == "list":
        return named
    if options.cases:
        return {key: entry for key, entry in named.items() if not entry.by_shape}
    return {key: entry for key, entry in named.items() if entry.default}


def _check_run(parser, options) -> None:
    if options.threads > _cores():
        parser.error(f"argument --threads: there are {_cores()} cores, got {options.threads}")
    if options.budget is None and options.protocol is QUICK and not options.cases:
        options.budget = QUICK_BUDGET
    if options.json not in (None, "-"):  # rather now than after minutes of running
        try:
            open(options.json, "a").close()
        except OSError as error:
            parser.error(f"argument --json: cannot write {options.json}: {error.strerror}")


def _check_carbon(parser, options) -> None:
    grid = options.country is not None or options.intensity is not None
    if options.pue is not None and not grid:
        parser.error("argument --pue: goes with --intensity or --country")
    if grid and options.command == "report" and options.markdown:
        parser.error("argument --markdown: has no gCO2e; leave --intensity and --country out")


def read_records(options: argparse.Namespace, path: str) -> list[Record]:
    """Return the records of a file, or of all in a folder; end with what is wrong."""
    files = sorted(Path(path).glob("*.jsonl")) if Path(path).is_dir() else [Path(path)]
    if not files:
        options.error(f"{path} holds no *.jsonl")
    try:
        records = [record for file in files for record in read(file)]
        if not records:
            options.error(f"{path} holds no records")
        return records
    except OSError as error:
        options.error(f"cannot read {error.filename}: {error.strerror}")
    except CorruptRecord as error:
        options.error(str(error))


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores or 1
