# SPDX-License-Identifier: MIT
"""gpiovirt record: what happened to a chip's lines, as a VCD file."""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import suppress
from datetime import datetime
from typing import IO, TYPE_CHECKING

from gpiovirt.errors import HostError

if TYPE_CHECKING:
    from gpiovirt.cli.chips import ChipSet
    from gpiovirt.exports.process.supervisor import Supervisor

__all__ = ["configure", "main", "open_recording", "record_run"]

EPILOG = """\
The chip is one of gpiovirtd's. It is recorded from now on, until Ctrl-C or for as long as --for says; with
--since, what is in the record already is written. Outputs are shown as they are driven, inputs where their
edges are watched by whoever holds them; what is not known is x. Tools that open the file: GTKWave, PulseView,
sigrok-cli, Surfer.

examples:
  gpiovirt record plc -o out.vcd --for 10s
  gpiovirt record plc -o out.fst --for 10s   (a tenth as large; needs GTKWave's vcd2fst)
  gpiovirt record plc -o last-hour.vcd --since 1h
"""

_SETTLED_S = 0.5  # what happened by now is in the record


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("chip", metavar="CHIP", help="a chip of gpiovirtd")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the VCD or FST file to write")
    parser.add_argument("--for", metavar="TIME", dest="duration", help="how long, e.g. 10s or 5m")
    parser.add_argument("--since", metavar="TIME", help="from then until now, as of `gpiovirt log`")
    parser.add_argument("--until", metavar="TIME", help="with --since: only until then")


def main(options: argparse.Namespace) -> int:
    """Write it."""
    from gpiovirt.cli.log import duration_ns, moment_ns
    from gpiovirt.cli.progress import wait
    from gpiovirt.control.client import Client
    from gpiovirt.errors import UsageError
    from gpiovirt.waveform.fst import SUFFIX, check_can_write, from_vcd

    if options.since and options.duration:
        raise UsageError("--since and --for do not go together")
    if options.until and not options.since:
        raise UsageError("--until goes with --since")
    with Client() as client:
        names = [line.name for line in client.show(options.chip).lines]
    if not names:
        raise HostError(f"the chip {options.chip} waits for its lines")
    now_ns = time.time_ns()
    since_ns = moment_ns(options.since, now_ns) if options.since else now_ns
    until_ns = moment_ns(options.until, now_ns) if options.until else now_ns
    is_fst = options.output.endswith(SUFFIX)
    if is_fst:
        check_can_write()
    with (
        tempfile.NamedTemporaryFile("w", suffix=".vcd") if is_fst else open_recording(options.output)
    ) as file:
        if not options.since:
            with suppress(KeyboardInterrupt):
                wait(duration_ns(options.duration) / 1e9 if options.duration else 1e8, options.chip)
            until_ns = time.time_ns()
            time.sleep(_SETTLED_S)
        elif until_ns <= since_ns:
            raise UsageError("--until is before --since")
        number = _write(file, options.chip, names, since_ns, until_ns)
        if is_fst:
            file.flush()
            from_vcd(file.name, options.output)
    print(f"{options.output}: {number} changes in {(until_ns - since_ns) / 1e9:.3f} s")
    return 0


def _write(file: IO[str], chip: str, names: list[str], since_ns: int, until_ns: int) -> int:
    from gpiovirt.control.log import LogClient
    from gpiovirt.core.record import What
    from gpiovirt.protocols.log import Ask, Done, LogRecord
    from gpiovirt.waveform.levels import LineLevels
    from gpiovirt.waveform.vcd import Signal, VcdWriter, signal_names

    levels = LineLevels(0, len(names))

    def take(record: LogRecord) -> None:
        if record.what == Done.LOST:
            levels.lose_all(record.time_ns)
        elif 0 <= record.offset < len(names):
            value = record.value | 2 * (record.direction == "output")
            levels.take(What[record.what.upper()], record.offset, value, record.time_ns)

    number = 0
    with LogClient(Ask(chip, (), since_ns, until_ns, last=True)) as client:
        parts = client.parts()
        for record in next(parts, ()):
            take(record)
        levels.forget_due()
        signals = [Signal(chip, name) for name in signal_names(names)]
        began = datetime.fromtimestamp(since_ns / 1e9)
        writer = VcdWriter(file, signals, levels.levels, levels.outputs, began)
        for part in parts:
            for record in part:
                take(record)
            number += levels.write_to(writer, since_ns)
    writer.close(until_ns - since_ns)
    return number


def open_recording(path: str) -> IO[str]:
    """A file to write; HostError if it cannot be, or if pyvcd is not there."""
    from gpiovirt.waveform.vcd import check_installed

    check_installed()
    try:
        return open(path, "w", encoding="utf-8", errors="replace")
    except OSError as error:
        raise HostError.of(f"cannot write {path}", error) from error


def record_run(file: IO[str], made: ChipSet, supervisor: Supervisor) -> None:
    """Record what the program of a supervisor sees, while it runs."""
    from gpiovirt.waveform.live import Beginning, LiveRecording

    beginning = Beginning(made.shown())
    recording = LiveRecording(file, made.simulator, made.rings(), supervisor.reactor, beginning)
    made.when_recorded(recording.drain_soon)
    supervisor.at_end.append(recording.close)
