# SPDX-License-Identifier: MIT
"""gpiovirt replay: drive simulated lines as a recording says; with a program, compare what it does."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from gpiovirt.cli import chips
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError, UsageError
from gpiovirt.waveform.drive import Driven, drive, match, named
from gpiovirt.waveform.vcd import Recording, read_vcd

if TYPE_CHECKING:
    from gpiovirt.exports.process.supervisor import Supervisor

EPILOG = """\
Without a program, --sim names a chip of a running simulator, whose lines are pulled at the recorded
times. With one, the program is run on the simulated chips of --sim, lines are driven from its first request
on, and the exit status says whether it did what --expect has recorded: 0, or 1 and what differed first. The
program is ended when the recordings are over.

Signals are found by the names of lines (`lineN` for line N without one). Recordings of gpiovirt say which
lines were outputs: only those are compared, and only the others driven, so that one recording can be both.
Pulses that are shorter than the tolerance may be taken for one.

examples:
  gpiovirt replay out.vcd --sim plc --speed 2
  gpiovirt run --sim panel:DOOR,LAMP --record good.vcd -- ./plc
  gpiovirt replay good.vcd --expect good.vcd --tolerance 5ms --sim panel:DOOR,LAMP -- ./plc
"""
USAGE = (
    "gpiovirt replay FILE --sim CHIP [--speed N] [--pid PID]\n"
    "       gpiovirt replay FILE --expect FILE [--tolerance TIME] [--speed N] --sim LABEL:LINES... "
    "-- PROGRAM [ARGUMENT]..."
)

_END_S = 3.0
_OVER = b"."


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", metavar="FILE", help="the recording to be replayed, VCD")
    chips.add_board(parser)
    chips.add_options(parser)
    parser.add_argument("--speed", metavar="N", type=float, default=1.0, help="so many times as fast")
    parser.add_argument("--pid", type=int, help="process id of the program whose chips to drive")
    parser.add_argument("--expect", metavar="FILE", help="what the program should do: another recording")
    parser.add_argument(
        "--tolerance", metavar="TIME", default="5ms", help="by how much times may differ (default: 5ms)"
    )
    parser.set_defaults(program=[])  # what comes after --


def main(options: argparse.Namespace) -> int:
    """Replay; 1 if what was expected did not happen."""
    argv = options.program
    check_speed(options.speed)
    recording = read_vcd(options.file).scaled(options.speed)
    if argv:
        return _test(options, argv, recording)
    if options.expect:
        raise UsageError("--expect needs a program; end with: -- PROGRAM [ARGUMENT]...")
    if len(options.sim) != 1 or ":" in options.sim[0]:
        raise UsageError("without a program, name one chip of a running simulator, as in --sim plc")
    return _drive(recording, options.sim[0], options.pid)


def _drive(recording: Recording, label: str, pid: int | None) -> int:
    """Pull lines of a running simulator."""
    from gpiovirt.cli.sim import connect

    with connect(pid, f"{label}:0") as client:
        tell(drive(client, recording, label))
    return 0


def check_speed(speed: float) -> None:
    """UsageError unless a recording can be played so."""
    if not 1e-6 <= speed <= 1e6:
        raise UsageError("--speed: a number such as 2 or 0.5")


def tell(driven: Driven) -> None:
    """Say what was done."""
    _tell_missing(driven.missing)
    print(
        f"{driven.changes} changes in {driven.end_ns / 1e9:.3f} s; "
        f"the latest was {driven.late_ns / 1e6:.1f} ms late"
    )


def _tell_missing(names: list[str]) -> None:
    if names:
        sys.stderr.write(f"gpiovirt: no lines here, and left out: {printable(', '.join(names[:10]))}\n")


def _test(options: argparse.Namespace, argv: list[str], recording: Recording) -> int:
    """Run a program, drive its lines, and compare."""
    from gpiovirt.cli.log import duration_ns
    from gpiovirt.waveform.compare import expected_of, first_difference

    if not options.expect:
        raise UsageError("with a program, say what it should do: --expect FILE")
    if not options.sim and not options.board:
        raise UsageError(
            "no chips; make one with --sim LABEL:LINES, as in --sim panel:DOOR,LAMP, or with --board"
        )
    expected = read_vcd(options.expect).scaled(options.speed)
    wanted = expected_of(expected)
    if not wanted:
        raise UsageError(f"{options.expect} has no line that is ever an output: nothing would be compared")
    tolerance_ns = duration_ns(options.tolerance)
    after_ns = max(expected.end_ns - recording.end_ns, 0) + tolerance_ns
    with tempfile.TemporaryDirectory(prefix="gpiovirt-replay-") as folder:
        path = f"{folder}/seen.vcd"
        status = _run(options, argv, recording, after_ns, path)
        seen = read_vcd(path)
    if status:
        sys.stderr.write(f"gpiovirt: the program ended with status {status}\n")
    lines = {(each.chip, each.name): each for each in seen.levels}
    by_name = {each.name: each for each in seen.levels}
    levels = {
        each: seen.levels[other]
        for each in wanted
        if (other := lines.get((each.chip, each.name)) or by_name.get(each.name)) is not None
    }
    difference = first_difference(wanted, levels, tolerance_ns)
    if difference is not None:
        print(f"differs: {printable(str(difference))}")
        return 1
    names = ", ".join(sorted(each.name for each in wanted))
    print(f"as expected: {printable(names)}, for {expected.end_ns / 1e9:.3f} s")
    return 0


def _run(options: argparse.Namespace, argv: list[str], recording: Recording, after_ns: int, path: str) -> int:
    """Run the program until it ends or the recordings are over; its exit status, 0 if it was ended by us."""
    reads, writes = os.pipe()
    program = os.fork()
    if not program:
        os.close(reads)
        _become(options, argv, recording, after_ns, path, writes)
    os.close(writes)
    was_ended = False
    try:
        while said := os.read(reads, 1):  # until its supervisor, which has written the recording, is gone
            if said == _OVER:
                was_ended = _end(program, reads)
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(program, signal.SIGKILL)
        raise
    finally:
        os.close(reads)
        _, wait_status = os.waitpid(program, 0)
    if not os.path.exists(path) or not os.path.getsize(path):
        raise HostError("the program was not started")
    return 0 if was_ended else os.waitstatus_to_exitcode(wait_status)


def _end(program: int, reads: int) -> bool:
    os.kill(program, signal.SIGTERM)
    if not select.select([reads], [], [], _END_S)[0]:
        os.kill(program, signal.SIGKILL)
    return True


def _become(
    options: argparse.Namespace, argv: list[str], recording: Recording, after_ns: int, path: str, writes: int
) -> NoReturn:
    """This process becomes the program; its supervisor has the other end of the pipe."""
    from gpiovirt.cli.main import report
    from gpiovirt.cli.record import open_recording
    from gpiovirt.exports.process.launch import launch
    from gpiovirt.waveform.live import Beginning, LiveRecording, Stimulus

    def start() -> int:
        made = chips.ChipSet(options)
        lines: dict[tuple[str, str], tuple[str, int]] = {}
        for label, chip in made.simulator.chips.items():
            names = [chip.line_info(offset).name for offset in range(chip.info.num_lines)]
            lines.update(named(label, names))
        matched, missing = match(recording, lines)
        _tell_missing(missing)
        file = open_recording(path)

        def prepare(supervisor: Supervisor) -> None:
            made.attach(supervisor.reactor)
            beginning = Beginning(made.shown())
            live = LiveRecording(file, made.simulator, {}, supervisor.reactor, beginning)
            supervisor.at_end.append(live.close)
            Stimulus(recording, matched, made.simulator, beginning, after_ns, lambda: os.write(writes, _OVER))

        launch(argv, made.openables(), made.deadlines, prepare, os.environ, made.guise())

    status = 1
    try:
        status = report(start)
    finally:
        os._exit(status)
