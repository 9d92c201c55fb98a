# SPDX-License-Identifier: MIT
"""python -m benchmarks [NAME...]: run all or some and print tables; all of them write docs/benchmarks.md."""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import sys
from itertools import groupby

from benchmarks.harness import HERE, Row

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
    "record",
    "kernel_lines",
    "vm_latency",
    "vm_edges",
]
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


def main() -> None:
    chosen = sys.argv[1:] or NAMES
    sections = []
    for name in chosen:
        module = importlib.import_module(f"benchmarks.bench_{name}")
        print(f"{name} ...", file=sys.stderr)
        title = str(module.__doc__).strip().rstrip(".")
        sections.append(f"## {title}\n\n{table(module.rows())}")
        print(sections[-1])
    if chosen == NAMES:
        machine = (
            f"{datetime.date.today():%Y-%m-%d}, Linux {platform.release()}, {os.cpu_count()} CPUs, "
            f"Python {platform.python_version()}"
        )
        DOCUMENT.write_text(HEADER.format(machine=machine) + "\n" + "\n".join(sections))


if __name__ == "__main__":
    main()
