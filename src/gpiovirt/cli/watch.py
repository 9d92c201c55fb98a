# SPDX-License-Identifier: MIT
"""gpiovirt watch: what happens to gpiovirtd's chips, as it happens."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from itertools import islice

from gpiovirt.control.client import Client
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError
from gpiovirt.protocols.control.answers import Event, encode_answer

__all__ = ["configure", "main"]

_AGAIN_S = 0.2

EPILOG = """\
Events of a chip: live, changed, owned, deleted, worker-ended; of a line: line-requested, line-released,
line-config (by a consumer), line-gone and line-back (its source). It continues when gpiovirtd is restarted.

examples:
  gpiovirt watch
  gpiovirt watch plc
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="this chip only")
    parser.add_argument("-n", "--count", metavar="N", type=int, help="end after N events")
    parser.add_argument("--json", action="store_true", help="print JSON, an object per line")


def main(options: argparse.Namespace) -> int:
    """Print events until interrupted, or until `--count` of them."""
    left = options.count
    was_there = False
    while left is None or left > 0:
        try:
            with Client() as client:
                events = client.watch(options.name)
                if was_there:
                    sys.stderr.write("gpiovirt: gpiovirtd is back\n")
                was_there = True
                for event in islice(events, left):
                    print(json.dumps(encode_answer(event)) if options.json else _text(event), flush=True)
                    left = None if left is None else left - 1
        except HostError:
            if not was_there:
                raise
        if left is None or left > 0:
            sys.stderr.write("gpiovirt: gpiovirtd has ended; waiting for it to come back\n")
            _await_daemon()
    return 0


def _await_daemon() -> None:
    while True:
        time.sleep(_AGAIN_S)
        with suppress(HostError), Client():
            return


def _text(event: Event) -> str:
    rest = [
        f"{key}={printable(str(value))}"
        for key, value in event._asdict().items()
        if key not in ("event", "chip", "timestamp_ns")
    ]
    return " ".join([event.chip, event.event, *rest])
