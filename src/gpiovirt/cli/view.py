# SPDX-License-Identifier: MIT
"""gpiovirt view: recordings in a browser."""

from __future__ import annotations

import argparse

from gpiovirt.cli.log import duration_ns
from gpiovirt.errors import UsageError

__all__ = ["configure", "main"]

EPILOG = """\
FILE is a recording in VCD, of gpiovirt or of another tool, or in FST, for which GTKWave's fst2vcd is needed.
Two are shown over the same time, with where the second one first differs from the first by more than the
tolerance, line by line. The page is that of `gpiovirt web`.

examples:
  gpiovirt view out.vcd
  gpiovirt view good.vcd out.vcd --tolerance 5ms
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a recording")
    parser.add_argument(
        "--tolerance", metavar="TIME", default="1ms", help="how much edges may differ in time (1ms)"
    )
    parser.add_argument("--port", type=int, metavar="N", help="of loopback (default: 8413, or the next free)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def main(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    from gpiovirt.cli.web import need_libraries, serve_page
    from gpiovirt.waveform.fst import read_recording
    from gpiovirt.web.recordings import Recordings

    if len(options.files) > 2:
        raise UsageError("one recording, or two to compare")
    need_libraries()
    recordings = [(path, read_recording(path)) for path in options.files]
    return serve_page(options, Recordings(recordings, duration_ns(options.tolerance)))
