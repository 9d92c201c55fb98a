# SPDX-License-Identifier: MIT
"""The command `gpiovirt`, also as python -m gpiovirt."""

import gc
import sys

__all__ = ["main"]


def main() -> int:
    """Entry point."""
    gc.disable()  # what a start makes, it keeps: to look for garbage there takes a twentieth of it
    from gpiovirt.cli.main import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
