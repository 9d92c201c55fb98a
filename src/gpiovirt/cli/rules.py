# SPDX-License-Identifier: MIT
"""gpiovirt rules: what holds for a chip's lines, and what that has refused."""

from __future__ import annotations

import argparse
import json

from gpiovirt.control.client import Client
from gpiovirt.core.text import printable
from gpiovirt.protocols.control.answers import RuleState, encode_answer

__all__ = ["configure", "main"]

EPILOG = """\
Numbers count from the start of the process that serves the chip. A rule that has tripped keeps lines in
their safe states: they can be driven again when its conditions hold, or, after its watchdog, when the chip
is re-armed (`gpiovirt rearm`). `gpiovirt watch` shows refusals as they happen.

example:
  gpiovirt rules plc
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="a chip")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(options: argparse.Namespace) -> int:
    """Print them."""
    with Client() as client:
        rules = client.show(options.name).rule_states
    if options.json:
        print(json.dumps(encode_answer(rules), indent=2))
    elif not rules:
        print(f"{options.name} has no rules")
    else:
        for rule in rules:
            print(_text(rule))
    return 0


def _text(rule: RuleState) -> str:
    done = [
        f"{number} {what}" for number, what in ((rule.refused, "refused"), (rule.trips, "tripped")) if number
    ]
    now = ", tripped now" if rule.tripped else ""
    return printable(rule.text) + (f"  ({', '.join(done)}{now})" if done or now else "")
