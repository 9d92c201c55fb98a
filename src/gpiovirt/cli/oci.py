# SPDX-License-Identifier: MIT
"""gpiovirt oci: give chips of gpiovirtd to a container that an OCI runtime is to run."""

from __future__ import annotations

import argparse

from gpiovirt.cli.oci_runtime import edit_bundle

__all__ = ["configure", "main"]

USAGE = "gpiovirt oci edit --chip NAME [--chip NAME ...] BUNDLE"
EPILOG = """\
BUNDLE is the directory of the container's config.json, which is edited in place: the container has the chips
as /dev/gpiochip0, 1, ... in the order of --chip, and of GPIO nothing else. Edited again it does not change.

examples:
  gpiovirt oci edit --chip plc BUNDLE && crun run --bundle BUNDLE NAME
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=["edit"], help="edit the configuration of a container")
    parser.add_argument("--chip", metavar="NAME", action="append", default=[], help="a chip to give to it")
    parser.add_argument("--runtime", metavar="PROGRAM", default="", help="the runtime, to use what it can do")
    parser.add_argument("bundle", metavar="BUNDLE", help="the directory with its config.json")


def main(options: argparse.Namespace) -> int:
    """Edit it."""
    edit_bundle(options.bundle, options.runtime, options.chip)
    return 0
