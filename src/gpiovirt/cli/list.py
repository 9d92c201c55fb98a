# SPDX-License-Identifier: MIT
"""gpiovirt list: every chip and line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from gpiovirt.control import control_socket, pid_of_socket
from gpiovirt.control.simulator import SimClient, running
from gpiovirt.core.text import printable
from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.pin_functions import pin_functions
from gpiovirt.sources.finder import Finder

EPILOG = """\
Lists the kernel chips that this user may open, the simulated chips of running programs, and the chips of
gpiovirtd that this user may use: with NAME, a name or label, only those, with all their lines. A line held
for a virtual chip is followed by `-> NAME`. Root is also told which pins a UART, a bus and so on has.

In JSON a chip has a kind (kernel, simulated or virtual), a name, a label and lines, and each line an offset,
a name, a direction, a consumer and used; a line of the kernel's has pin, too, who has its pin. A virtual chip
has in addition what `gpiovirt show --json` prints.

examples:
  gpiovirt list
  gpiovirt list plc --json
"""
_HOLDER = "gpiovirt:"
_NONE: Mapping[str, str] = {}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="only chips of this name or label")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--names",
        metavar="KIND",
        choices=["virtual", "simulated"],
        help="print only CHIP:LINE of each line of the virtual or simulated chips, as get and sim take it",
    )


def main(options: argparse.Namespace) -> int:
    """Print all chips."""
    if options.names:
        for chip in _simulated_chips() if options.names == "simulated" else _chips_of_gpiovirtd():
            if options.name in (None, chip["name"]):
                _print_names(chip)
        return 0
    chips = list(_chips(options.name))
    if not chips and options.name:
        raise UsageError(f"no chip {options.name!r} that you may use; `gpiovirt list` shows which there are")
    if options.json:
        print(json.dumps(chips, indent=2))
        return 0
    for chip in chips:
        _print(chip)
    if not chips:
        print("no chips: this kernel has none that you may open, and no simulator is running")
    return 0


def _chips(name: str | None) -> Iterator[dict[str, Any]]:
    """The chips of that name, or all, as JSON has them; of gpiovirtd's the lines only if named."""
    for chip in (*_kernel_chips(), *_simulated_chips()):
        if name in (None, chip["name"], chip["label"]):
            yield chip
    if control_socket() is not None:
        yield from _virtual_chips(name)


def _print_names(chip: Mapping[str, Any]) -> None:
    """By name, where that names one line and is no number."""
    names = [line["name"] for line in chip["lines"]]
    for line in chip["lines"]:
        name = line["name"]
        is_clear = name and names.count(name) == 1 and not name.isdecimal() and name == printable(name)
        print(f"{printable(chip['name'])}:{name if is_clear else line['offset']}")


def _chips_of_gpiovirtd() -> Iterator[dict[str, Any]]:
    """With their lines."""
    names = [chip["name"] for chip in _virtual_chips(None)] if control_socket() is not None else []
    return (chip for name in names for chip in _virtual_chips(name))


def _virtual_chips(name: str | None) -> Iterator[dict[str, Any]]:
    # where no daemon runs the command starts sooner without
    from gpiovirt.control.client import Client
    from gpiovirt.protocols.control.answers import encode_answer

    try:
        with Client() as client:
            for chip in client.chips():
                if name in (None, chip.name):
                    told = encode_answer(chip if name is None else client.show(chip.name))
                    yield {"kind": "virtual", "label": chip.name, **told}
    except HostError:  # it has ended
        return


def _kernel_chips() -> Iterator[dict[str, Any]]:
    with Finder().look() as look:
        chips = look.all()
        handed_over = _handed_over() if chips else _NONE
        for chip in chips:
            lines = []
            functions = pin_functions(chip.info)
            for offset in range(chip.info.num_lines):
                info = chip.line_info(offset)
                line = _line(offset, info.name, info.direction.name.lower(), info.consumer, info.used)
                pin = functions.get(offset, "")
                lines.append({**line, "chip": _chip_of(info.consumer, handed_over), "pin": pin})
            yield {"kind": "kernel", "name": chip.info.name, "label": chip.info.label, "lines": lines}


def _handed_over() -> Mapping[str, str]:
    from gpiovirt.exports.kernel.record import chips_of_devices

    return chips_of_devices()


def _simulated_chips() -> Iterator[dict[str, Any]]:
    for name in running():
        chips: dict[str, list[dict[str, Any]]] = {}
        try:
            with SimClient(name) as client:
                for told in client.lines():
                    consumer = told["consumer"]
                    line = _line(told["offset"], told["name"], told["direction"], consumer, bool(consumer))
                    line["chip"] = _chip_of(consumer, _NONE)
                    chips.setdefault(told["chip"], []).append(line)
        except HostError:  # it ended meanwhile
            continue
        for label, lines in chips.items():
            pid = pid_of_socket(name)
            yield {"kind": "simulated", "name": label, "label": label, "pid": pid, "lines": lines}


def _line(offset: int, name: str, direction: str, consumer: str, used: bool) -> dict[str, Any]:
    return {"offset": offset, "name": name, "direction": direction, "consumer": consumer, "used": used}


def _chip_of(consumer: str, handed_over: Mapping[str, str]) -> str:
    """The virtual chip that a line is held for; "" if it is not."""
    return consumer.removeprefix(_HOLDER) if consumer.startswith(_HOLDER) else handed_over.get(consumer, "")


def _print(chip: Mapping[str, Any]) -> None:
    label, lines = printable(chip["label"]), chip.get("lines", ())
    if chip["kind"] == "virtual":
        _print_virtual(chip)
        return
    if chip["kind"] == "kernel":
        print(f"{chip['name']} [{label}] {len(lines)} lines")
    else:
        print(f"[{label}] simulated, process {chip['pid']}")
    for line in lines:
        consumer = printable(line["consumer"])
        holder = f'"{consumer}"' if consumer else "the kernel" if line["used"] else "unused"
        virtual = f" -> {printable(line['chip'])}" if line["chip"] else ""
        name = printable(line["name"]) or "-"
        pin = f", its pin is for {printable(line['pin'])}" if line.get("pin") else ""
        print(f"  {line['offset']:4} {name:20} {line['direction']:7} {holder}{virtual}{pin}")


def _print_virtual(chip: Mapping[str, Any]) -> None:
    from gpiovirt.cli.show import describe, describe_line
    from gpiovirt.protocols.control.answers import ChipState, LineState, decode_answer

    print(describe(decode_answer(ChipState, chip)))
    for line in decode_answer(tuple[LineState, ...], chip.get("lines", [])):
        print(describe_line(line))
