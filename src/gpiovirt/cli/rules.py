# SPDX-License-Identifier: MIT
"""gpiovirt rules: what holds for a chip's lines, and what that has refused."""

from __future__ import annotations

import argparse
import json

from gpiovirt.control.client import Client
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError
from gpiovirt.protocols.control.answers import RuleState, encode_answer
from gpiovirt.virtual.options import has_rule, parse_options

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
        told = client.show(options.name)
    rules = told.rule_states
    has_some = told.rules or any(has_rule(parse_options(line.options)) for line in told.lines)
    if not rules and has_some:
        raise HostError(f"the process that serves {options.name} does not answer; try again")
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
    done += ["tripped now"] if rule.tripped else []
    return printable(rule.text) + (f"  ({', '.join(done)})" if done else "")
