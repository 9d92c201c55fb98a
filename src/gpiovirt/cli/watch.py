# SPDX-License-Identifier: MIT
"""gpiovirt watch: what happens to gpiovirtd's chips, as it happens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from gpiovirt.control.client import Client

__all__ = ["configure", "main"]

EPILOG = """\
Events of a chip: live, changed, owned, deleted, worker-ended; of a line: line-requested, line-released,
line-config (by a consumer), line-gone and line-back (its source).

examples:
  gpiovirt watch
  gpiovirt watch plc
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="this chip only")
    parser.add_argument("-n", "--count", metavar="N", type=int, help="end after N events")
    parser.add_argument("--json", action="store_true", help="an object a line, for programs")


def main(options: argparse.Namespace) -> int:
    """Print events until interrupted, or the daemon ends."""
    with Client() as client:
        events: Iterator[dict[str, Any]] = client.watch(options.name)
        for event in islice(events, options.count):
            print(json.dumps(event) if options.json else _text(event), flush=True)
    return 0


def _text(event: Mapping[str, Any]) -> str:
    rest = [f"{key}={value}" for key, value in event.items() if key not in ("event", "chip", "timestamp_ns")]
    return " ".join([str(event["chip"]), str(event["event"]), *rest])
