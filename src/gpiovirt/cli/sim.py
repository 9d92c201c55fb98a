# SPDX-License-Identifier: MIT
"""gpiovirt sim: the outside of simulated lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from gpiovirt.control import pid_of_socket
from gpiovirt.control.simulator import SimClient, running
from gpiovirt.core.text import nearest, printable
from gpiovirt.errors import HostError, NoSuchChipError, UsageError

EPILOG = """\
LINE is CHIP:OFFSET, CHIP:NAME, or a unique NAME. Run from a program started by `gpiovirt run`, the
command drives that program's chips; run from outside, it finds the running simulators of the same
user, and --pid chooses one of several that have such a line.

examples:
  gpiovirt sim pull sim-a:3 up
  gpiovirt sim get DOOR
  gpiovirt sim bounce DOOR --for 8ms
  gpiovirt sim unplug panel
  gpiovirt sim make panel:DOOR,LAMP
  gpiovirt sim watch
"""

_LEVELS = ["up", "down", "high", "low", "1", "0"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--pid", type=int, help="process id of the program whose chips to use")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="what")

    def command(name: str, text: str, description: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=description or text)

    def of_line(name: str, text: str, description: str = "") -> argparse.ArgumentParser:
        made = command(name, text, description)
        made.add_argument("line", metavar="LINE")
        return made

    of_line("pull", "pull a line up or down").add_argument("level", choices=_LEVELS)
    of_line("toggle", "pull a line to where it is not pulled")
    of_line("get", "print a line's level", "print a line's level, 0 or 1")
    of_line(
        "stick",
        "have a line stuck at a level",
        "have a line stuck at a level, whoever drives or pulls it, as by a short circuit",
    ).add_argument("level", choices=_LEVELS)
    of_line("unstick", "end that")
    pulse = of_line("pulse", "pull a line away for a while", "pull a line away for a while, and back")
    pulse.add_argument("--for", metavar="TIME", dest="duration", default="100ms", help="how long (100ms)")
    pulse.add_argument("--times", metavar="N", type=int, default=1, help="how often (once)")
    pulse.add_argument("--every", metavar="TIME", help="from one pulse to the next (twice --for)")
    bounce = of_line(
        "bounce",
        "change a line as a contact that bounces",
        "pull a line to where it is not pulled, as a contact that bounces",
    )
    bounce.add_argument("--for", metavar="TIME", dest="duration", default="8ms", help="how long (8ms)")
    bounce.add_argument("--every", metavar="TIME", default="1ms", help="how long each level lasts (1ms)")
    bounce.add_argument("--to", metavar="LEVEL", choices=_LEVELS, help="where it settles: high or low")
    command(
        "unplug",
        "have a chip vanish",
        "have a chip vanish: what the program has open of it hangs up, and calls fail with ENODEV",
    ).add_argument("chip", metavar="CHIP")
    command("plug", "have it back", "have an unplugged chip back").add_argument("chip", metavar="CHIP")
    command(
        "make",
        "make a simulated chip",
        "make a simulated chip, and print its device; for a program that was started with --gpio-sim",
    ).add_argument("chip", metavar="LABEL:LINES", help="as for `gpiovirt run --sim`")
    command("remove", "have such a chip vanish for good").add_argument("chip", metavar="CHIP")
    play = command(
        "play",
        "drive lines as a recording says",
        "pull lines as a recording (VCD) says, where it does not say that they are outputs",
    )
    play.add_argument("file", metavar="FILE", help="the recording; signals have the names of lines")
    play.add_argument("--chip", metavar="CHIP", help="lines of this chip only")
    play.add_argument("--speed", metavar="N", type=float, default=1.0, help="so many times as fast")
    command("list", "print all lines")
    watch = command(
        "watch", "print every change of level", "print every change of level until the program ends"
    )
    watch.add_argument("-n", "--num-changes", type=int, metavar="N", help="end after N changes")


def main(options: argparse.Namespace) -> int:
    """Do one command."""
    chip = None if options.what == "make" else getattr(options, "chip", None)
    with connect(options.pid, f"{chip}:0" if chip else getattr(options, "line", "")) as client:
        _COMMANDS[options.what](client, options)
    return 0


def connect(pid: int | None, line: str) -> SimClient:
    """The running simulator that has this line ("": any), or that of process `pid`; HostError, UsageError."""
    return choose(pid, lambda lines: not line or any(line in _texts(each) for each in lines), line)


def choose(pid: int | None, has: Callable[[list[dict[str, Any]]], bool], what: str) -> SimClient:
    """The one running simulator with lines as `has` says, or that of process `pid`."""
    names = [name for name in running() if pid is None or pid_of_socket(name) == pid]
    if not names:
        where = "" if pid is None else f" for process {pid}"
        raise HostError(
            f"no simulator is running{where}; start one with: gpiovirt run --sim sim-a:8 -- PROGRAM"
        )
    if len(names) == 1:
        return SimClient(names[0])
    lines = {name: _lines(name) for name in names}
    having = [name for name in names if has(lines[name])]
    if len(having) == 1:
        return SimClient(having[0])
    pids = ", ".join(str(pid_of_socket(name)) for name in having or names)
    if having:
        has_it = f"have {what}" if what else "are running"
        raise UsageError(f"{len(having)} simulators {has_it}; choose one with --pid ({pids})")
    near = nearest(what, {text for each in lines.values() for line in each for text in _texts(line)})
    raise NoSuchChipError(f"none of {len(names)} running simulators ({pids}) has {what}{near}")


def _texts(line: dict[str, Any]) -> set[str]:
    """What a line may be called."""
    texts = {f"{line['chip']}:{line['offset']}"}
    return texts | {line["name"], f"{line['chip']}:{line['name']}"} if line["name"] else texts


def _lines(name: str) -> list[dict[str, Any]]:
    try:
        with SimClient(name) as client:
            return client.lines()
    except HostError:
        return []


def _pulse(client: SimClient, options: argparse.Namespace) -> None:
    period_ms = _ms(options.every) if options.every else 0
    client.pulse(options.line, _ms(options.duration), options.times, period_ms)


def _bounce(client: SimClient, options: argparse.Namespace) -> None:
    client.bounce(options.line, _ms(options.duration), _ms(options.every), options.to)


def _ms(text: str) -> float:
    from gpiovirt.cli.log import duration_ns

    return duration_ns(text) / 1e6


def _play(client: SimClient, options: argparse.Namespace) -> None:
    from gpiovirt.cli.replay import check_speed, tell
    from gpiovirt.waveform.drive import drive
    from gpiovirt.waveform.vcd import read_vcd

    check_speed(options.speed)
    tell(drive(client, read_vcd(options.file).scaled(options.speed), options.chip))


def _make(client: SimClient, options: argparse.Namespace) -> None:
    from gpiovirt.cli.chips import parse_sim

    print(client.make(*parse_sim(options.chip, "sim make")))


def _print_lines(client: SimClient, _options: argparse.Namespace) -> None:
    for line in client.lines():
        where = f"{printable(line['chip'])}:{line['offset']}"
        name = printable(line["name"]) or "-"
        consumer = f'"{printable(line["consumer"])}"' if line["consumer"] else "unused"
        faults = [
            *(["unplugged"] if line["unplugged"] else []),
            *([] if line["stuck"] is None else [f"stuck at {line['stuck']}"]),
        ]
        text = f"{where:16} {name:16} {line['level']}  {line['direction']:7} {consumer}"
        print(", ".join([text, *faults]))


def _watch(client: SimClient, options: argparse.Namespace) -> None:
    for count, change in enumerate(client.watch(), 1):
        level = "up" if change.level else "down"
        print(f"{change.timestamp_ns / 1e9:.6f} {printable(change.chip)}:{change.offset} {level}", flush=True)
        if count == options.num_changes:
            return


_COMMANDS: dict[str, Callable[[SimClient, argparse.Namespace], object]] = {
    "pull": lambda client, options: client.pull(options.line, options.level),
    "toggle": lambda client, options: client.toggle(options.line),
    "get": lambda client, options: print(client.get(options.line)),
    "stick": lambda client, options: client.stick(options.line, options.level),
    "unstick": lambda client, options: client.unstick(options.line),
    "pulse": _pulse,
    "bounce": _bounce,
    "unplug": lambda client, options: client.unplug(options.chip),
    "plug": lambda client, options: client.plug(options.chip),
    "make": _make,
    "remove": lambda client, options: client.remove(options.chip),
    "play": _play,
    "list": _print_lines,
    "watch": _watch,
}
