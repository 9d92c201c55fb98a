# SPDX-License-Identifier: MIT
"""gpiovirt cdi: print what container engines are told of a chip."""

from __future__ import annotations

import argparse
import json

from gpiovirt.control.containers import node_of
from gpiovirt.errors import UsageError
from gpiovirt.host.installation import guard
from gpiovirt.protocols.cdi import KIND, cdi_spec, is_cdi_name

__all__ = ["configure", "main"]

EPILOG = """\
gpiovirtd writes such a file for each of its chips to /var/run/cdi, where engines look for
`--device gpiovirt.io/chip=NAME`. A user's own gpiovirtd writes to $XDG_RUNTIME_DIR/gpiovirt/containers/cdi.

examples:
  gpiovirt cdi plc
  gpiovirt cdi plc > ~/.config/cdi/plc.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="a chip")


def main(options: argparse.Namespace) -> int:
    """Print it."""
    node = node_of(options.name)
    if not is_cdi_name(options.name):
        raise UsageError(f"no device of {KIND} can be called {options.name!r}; mount {node} instead")
    print(json.dumps(cdi_spec(options.name, node, guard()), indent=1))
    return 0
