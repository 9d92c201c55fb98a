# SPDX-License-Identifier: MIT
"""Run benchmarks, all or some, and print tables; all of them write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import sys
from itertools import groupby
from pathlib import Path

from benchmarks.harness import HERE, QUICK, Row

NAMES = [
    "get_values",
    "set_values",
    "request",
    "edge",
    "startup",
    "instructions",
    "rules",
    "endings",
    "memory",
    "containers",
    "daemon",
    "growth",
    "record",
    "kernel_lines",
    "vm_latency",
    "vm_edges",
]
QUICK_NAMES = ["get_values", "set_values", "request", "edge", "startup", "rules"]
LOAD_MAX = 1.0
DOCUMENT = HERE.parent / "docs/benchmarks.md"
HEADER = """\
# Benchmarks

Written by `make bench`; every table is from one run, floors and ours in turn. {machine}.

*C, bare* is `benchmarks/floor.c` that receives the trapped ioctl and answers it, nothing else: the
kernel's share. *C, full* also finds out which file the call is for and copies the argument, as any
supervisor must. *gpiovirt* is a simulated chip, *aggregate* a virtual chip over two of them. The C
client is the same in all. *One CPU* means program and supervisor pinned to it together.
"""


def table(rows: list[Row]) -> str:
    """Rows with the same columns as one Markdown table."""
    parts = []
    for columns, group in groupby(rows, key=lambda row: tuple(row.figures)):
        parts.append("| | " + " | ".join(columns) + " |")
        parts.append("|---|" + "---:|" * len(columns))
        parts += [f"| {row.operation} | " + " | ".join(row.figures.values()) + " |" for row in group]
        parts.append("")
    return "\n".join(parts)


def _machine() -> str:
    python = "Debian's" if sys.base_prefix == "/usr" else "not Debian's, which is faster"
    return (
        f"{datetime.date.today():%Y-%m-%d}, Linux {platform.release()}, {os.cpu_count()} CPUs, load "
        f"{os.getloadavg()[0]:.1f} before, Python {platform.python_version()} ({python})"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)} (all)")
    parser.add_argument("--against", metavar="REV", help="compare this tree with a commit, and nothing else")
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK_NAMES)}, with fewer rounds")
    parser.add_argument("--json", metavar="FILE", help="write what was measured there, too")
    parser.add_argument("--anyway", action="store_true", help="measure on a machine that has other work")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    return arguments


def _check_load(anyway: bool) -> None:
    """A machine that has other work is refused, unless that is wanted, and then told."""
    load = os.getloadavg()[0]
    if load <= LOAD_MAX:
        return
    why = f"the machine has other work (load {load:.1f}): figures would be of that"
    if not anyway:
        raise SystemExit(f"{why}; wait, or add --anyway")
    print(why, file=sys.stderr)


def _section(name: str, *arguments: str) -> tuple[list[Row], str]:
    """The rows of a module, and what is printed of them."""
    module = importlib.import_module(f"benchmarks.{name}")
    print(f"{name.removeprefix('bench_')} ...", file=sys.stderr)
    rows: list[Row] = module.rows(*arguments)
    title = str(module.__doc__).strip().rstrip(".")
    text = f"## {title}\n\n{table(rows)}"
    print(text)
    return rows, text


def main() -> None:
    arguments = _arguments()
    machine = _machine()
    _check_load(arguments.anyway)
    if arguments.quick:
        os.environ[QUICK] = "1"  # before those are imported that ask
    if arguments.against:
        sections = {"against": _section("against", arguments.against)}
    else:
        names = arguments.names or (QUICK_NAMES if arguments.quick else NAMES)
        sections = {name: _section(f"bench_{name}") for name in names}
    if arguments.json:
        told = {name: [row._asdict() for row in rows] for name, (rows, _) in sections.items()}
        Path(arguments.json).write_text(json.dumps({"machine": machine, **told}, indent=1) + "\n")
    if list(sections) == NAMES and not arguments.quick:
        texts = [text for _, text in sections.values()]
        DOCUMENT.write_text(HEADER.format(machine=machine) + "\n" + "\n".join(texts))


if __name__ == "__main__":
    main()
