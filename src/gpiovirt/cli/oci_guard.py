# SPDX-License-Identifier: MIT
"""A hook of all containers that ask for a chip: it fails the start of one that nobody has edited.

Otherwise its programs would find a device that is none, and no reason why.
"""

import json
import sys

from gpiovirt.control.containers import is_listener

__all__ = ["main"]

_CONFIG_MAX = 1 << 24


def main() -> int:
    """Look at the configuration of the container whose state standard input has."""
    try:
        state = json.loads(sys.stdin.buffer.read(_CONFIG_MAX))
        with open(f"{state['bundle']}/config.json", "rb") as file:
            path = json.loads(file.read(_CONFIG_MAX))["linux"]["seccomp"]["listenerPath"]
    except (OSError, ValueError, KeyError, TypeError):
        path = None
    if is_listener(path):
        return 0
    sys.stderr.write(
        "gpiovirt: this engine has given the container a chip's device and nobody to serve it; "
        "gpiovirt doctor says what is missing\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
