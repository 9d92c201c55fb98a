# SPDX-License-Identifier: MIT
"""gpiovirt watch: what happens to gpiovirtd's chips, as it happens."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice

from gpiovirt.control.access import group_name, user_name
from gpiovirt.control.client import Client
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError
from gpiovirt.protocols.control.answers import Event, encode_answer

__all__ = ["configure", "main"]

_AGAIN_S = 0.2

EPILOG = """\
Events of a chip: live, changed, owned, deleted, worker-ended; of a line: line-requested, line-released,
line-config (by a consumer), line-gone and line-back (its source), line-forced and line-unforced (by an
operator), rule-refused, rule-tripped and rule-rearmed. It continues when gpiovirtd is restarted.

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
                    print(_json(event) if options.json else _text(event), flush=True)
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


def _json(event: Event) -> str:
    told = encode_answer(event)
    return json.dumps({**told, "time_ns": _time_ns(told)})


def _time_ns(told: Mapping[str, object]) -> int:
    """When it happened, since the epoch; now, where it does not say so."""
    at_ns = told.get("timestamp_ns")
    return time.time_ns() - (time.monotonic_ns() - at_ns if isinstance(at_ns, int) else 0)


def _text(event: Event) -> str:
    told = encode_answer(event)
    at_ns = _time_ns(told)
    clock = time.strftime("%H:%M:%S", time.localtime(at_ns // 10**9))
    words = [f"{clock}.{at_ns // 1_000_000 % 1000:03}", event.chip, event.event]
    if "offset" in told:
        words.append(printable(told["name"]) or str(told["offset"]))
    words += [printable(str(told[key])) for key in ("direction", "source", "level", "why") if told.get(key)]
    if told.get("consumer"):
        words.append(f'"{printable(told["consumer"])}"')
    who = told.get("holder") or told
    if "uid" in who and event.event != "owned":
        pid = f"pid {who['pid']}, " if who.get("pid") else ""
        words.append(f"({pid}{user_name(who['uid'])})")
    if event.event == "owned":
        words.append(f"{user_name(told['uid'])}:{group_name(told['gid'])} {told['mode']:04o}")
    if event.event == "lost":
        words.append(f"{told['count']} events")
    return " ".join(words)
