# SPDX-License-Identifier: MIT
"""The old interface, /sys/class/gpio, on chips of this process: a tree for FUSE, and what serves it.

Behaviour: drivers/gpio/gpiolib-sysfs.c of Linux 6.12. Lines are held for "sysfs" from export to unexport.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence

from gpiovirt.core.chip import Chip
from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.core.line import AS_IS, Direction, Edge, EdgeEvent, LineSettings
from gpiovirt.exports.process.fuse import FuseMount
from gpiovirt.host.reactor import Reactor
from gpiovirt.protocols.attributes import FixedDirectory, ValueFile, integer
from gpiovirt.protocols.fuse import Attribute, Directory

__all__ = ["SysfsGpio", "serve"]

_EDGES = {"none": Edge.NONE, "rising": Edge.RISING, "falling": Edge.FALLING, "both": Edge.BOTH}


class _Line(FixedDirectory):
    """An exported line."""

    def __init__(self, chip: Chip, offset: int, number: int, changed: Callable[[], object]) -> None:
        self._chip = chip
        self._offset = offset
        self._changed = changed
        self._settings = AS_IS
        self._edge = Edge.NONE
        """Of an output, too: it is what it will be watched for"""
        self._number_of_edges = 0
        self.is_gone = False
        holder = Holder.of("sysfs", HolderKind.PROGRAM, 0, os.getuid())
        self._request = chip.request([offset], [AS_IS], holder, self._on_edge, self._on_presence)
        super().__init__(
            {
                "active_low": ValueFile(0o644, lambda: int(self._settings.active_low), self._set_active_low),
                "direction": ValueFile(0o644, self._direction, self._set_direction),
                "edge": ValueFile(0o644, self._edge_name, self._set_edge),
                "value": ValueFile(0o644, self._value, self._set_value, lambda: self._number_of_edges),
            }
        )
        self.number = number

    def release(self) -> None:
        self._request.release()

    def _on_edge(self, _event: EdgeEvent) -> None:
        self._number_of_edges += 1
        self._changed()

    def _on_presence(self, _offset: int, there: bool) -> None:
        if not there and not self.is_gone:
            self.is_gone = True
            self._request.release()

    def _configure(self, settings: LineSettings) -> None:
        self._request.reconfigure({0: settings})
        self._settings = settings

    def _is_output(self) -> bool:
        return self._chip.is_output(self._offset)

    def _direction(self) -> str:
        return "out" if self._is_output() else "in"

    def _set_direction(self, text: str) -> None:
        levels = {"out": 0, "low": 0, "high": 1}
        if text == "in":
            self._configure(self._settings._replace(direction=Direction.INPUT, edge=self._edge))
        elif text in levels:
            value = levels[text] ^ self._settings.active_low  # the levels are physical
            self._drive(self._settings.active_low, value)
        else:
            raise OSError(errno.EINVAL, "no direction")

    def _drive(self, active_low: bool, value: int) -> None:
        """An output has no edges; those of an input are watched for again when it is one."""
        self._configure(LineSettings(Direction.OUTPUT, active_low=active_low, output_value=value))

    def _value(self) -> int:
        return self._request.get_values(1)

    def _set_value(self, text: str) -> None:
        if not self._is_output():
            raise OSError(errno.EPERM, "an input")
        self._request.set_values(1, int(integer(text) != 0))

    def _edge_name(self) -> str:
        return next(name for name, edge in _EDGES.items() if edge is self._edge)

    def _set_edge(self, text: str) -> None:
        if text not in _EDGES:
            raise OSError(errno.EINVAL, "no edge")
        if _EDGES[text] is not self._edge:
            self._watch_for(Edge.NONE)
            self._watch_for(_EDGES[text])

    def _watch_for(self, edge: Edge) -> None:
        if self._is_output():
            if edge:
                raise OSError(errno.EIO, "an output has no interrupt")
        elif edge or self._settings.edge:
            self._configure(self._settings._replace(direction=Direction.INPUT, edge=edge))
        self._edge = edge

    def _set_active_low(self, text: str) -> None:
        active_low = integer(text) != 0
        if active_low == self._settings.active_low:
            return
        if not self._is_output():
            self._configure(self._settings._replace(direction=Direction.INPUT, active_low=active_low))
            return
        self._drive(active_low, self._value() ^ 1)  # the level stays as it is
        if self._edge in (Edge.RISING, Edge.FALLING):  # as the kernel's, whose interrupt is requested anew
            self._edge = Edge.NONE
            raise OSError(errno.EIO, "an output has no interrupt")


class SysfsGpio:
    """The directory; the lines of `chips` have numbers from `base` on, in their order."""

    def __init__(self, chips: Sequence[Chip], base: int, changed: Callable[[], object]) -> None:
        """`changed` is called when who polls is to be told."""
        self._changed = changed
        self._lines: dict[int, _Line] = {}
        self._chips: dict[int, Chip] = {}
        for chip in chips:
            self._chips[base] = chip
            base += chip.info.num_lines
        self._control: dict[str, Directory | Attribute] = {
            "export": ValueFile(0o200, write=self._export),
            "unexport": ValueFile(0o200, write=self._unexport),
        }

    def entries(self) -> Mapping[str, Directory | Attribute]:
        for number in [number for number, line in self._lines.items() if line.is_gone]:
            del self._lines[number]
        found = dict(self._control)
        for number in sorted(self._lines):
            found[f"gpio{number}"] = self._lines[number]
        for base, chip in self._chips.items():
            if getattr(chip, "is_there", True):
                found[f"gpiochip{base}"] = _chip(base, chip)
        return found

    def _export(self, text: str) -> None:
        number = integer(text)
        for base, chip in self._chips.items():
            if base <= number < base + chip.info.num_lines:
                self.entries()  # lines that are gone are
                if number in self._lines:
                    raise OSError(errno.EBUSY, "it is exported")
                self._lines[number] = _Line(chip, number - base, number, self._changed)
                return
        raise OSError(errno.EINVAL, "no such line")

    def _unexport(self, text: str) -> None:
        line = self._lines.pop(integer(text), None)
        if line is None:
            raise OSError(errno.EINVAL, "it is not exported")
        line.release()


def _chip(base: int, chip: Chip) -> Directory:
    info = chip.info
    return FixedDirectory(
        {
            "base": ValueFile(0o444, lambda: base),
            "label": ValueFile(0o444, lambda: info.label),
            "ngpio": ValueFile(0o444, lambda: info.num_lines),
        }
    )


def serve(fuse: int, chips: Sequence[Chip], base: int, reactor: Reactor) -> None:
    """Serve it to who mounted `fuse`, an open /dev/fuse."""
    mount = FuseMount(fuse, SysfsGpio(chips, base, lambda: mount.wake()), reactor)
