# SPDX-License-Identifier: MIT
"""gpiovirt token: what lets others in at `gpiovirt web --tokens`."""

from __future__ import annotations

import argparse
import os
import time

from gpiovirt.cli.log import duration_ns
from gpiovirt.errors import UsageError
from gpiovirt.web.access import Kept, Rights, Tokens, token_file

__all__ = ["configure", "main"]

EPILOG = """\
A token is printed once, when it is made: what is kept is its SHA-256. It lets in whoever has it, with the
rights said here and no more than the user has who runs `gpiovirt web`. A token that is revoked or has ended
is refused from then on, in pages that are open, too.

examples:
  gpiovirt token --read plc                  (see the chip plc)
  gpiovirt token --drive plc,door --for 30d  (see and drive)
  gpiovirt token --read                      (see all chips, for Prometheus)
  gpiovirt token --list
  gpiovirt token --revoke 1f3a9c02
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    for option, does in (("read", "see"), ("drive", "see and drive")):
        what.add_argument(
            f"--{option}", metavar="CHIP,...", nargs="?", const="", help=f"make one to {does} chips, or all"
        )
    what.add_argument(
        "--manage",
        action="store_true",
        help="make one to do all that you may: make chips, force lines",
    )
    what.add_argument("--list", action="store_true", help="list them")
    what.add_argument("--revoke", metavar="ID", nargs="+", help="have tokens be worth nothing")
    parser.add_argument(
        "--for", metavar="TIME", dest="duration", help="when it ends, e.g. 30d (default: never)"
    )


def main(options: argparse.Namespace) -> int:
    """Do it."""
    tokens = Tokens(token_file(os.getuid()))
    if options.list:
        for kept in tokens.all():
            print(_text(kept))
        return 0
    if options.revoke:
        tokens.revoke(options.revoke)
        return 0
    if options.manage:
        rights = Rights()
    else:
        named = options.drive if options.read is None else options.read
        rights = Rights(_chips(named), drive=options.read is None, manage=False)
    until_s = time.time() + duration_ns(options.duration) / 1e9 if options.duration else 0.0
    print(tokens.make(rights, until_s))
    return 0


def _chips(text: str) -> frozenset[str] | None:
    if not text:
        return None
    names = frozenset(text.split(","))
    if not all(names):
        raise UsageError(f"{text!r}: name chips, with commas between them")
    return names


def _text(kept: Kept) -> str:
    rights = kept.rights
    may = "manage" if rights.manage else "drive" if rights.drive else "read"
    chips = "all chips" if rights.chips is None else ",".join(sorted(rights.chips))
    if not kept.until_s:
        end = "no end"
    elif kept.until_s <= time.time():
        end = "ended"
    else:
        end = time.strftime("until %Y-%m-%d %H:%M", time.localtime(kept.until_s))
    return f"{kept.id} {may} {chips}, {end}"
