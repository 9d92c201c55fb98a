# SPDX-License-Identifier: MIT
"""Who holds a line: what they are called is their own word, the rest is the kernel's."""

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Holder", "HolderKind"]

_LABEL_BYTES = 31  # linux/gpio.h: GPIO_MAX_NAME_SIZE, without the NUL


class HolderKind(StrEnum):
    """What a holder is."""

    PROGRAM = "program"
    VM = "vm"
    CHIP = "chip"
    """A virtual chip, of which the line is one"""
    HOG = "hog"
    """The simulator itself"""
    CONTAINER = "container"
    """A program in a container"""


class Holder(NamedTuple):
    """`label` is the consumer that the character device shows, of at most 31 bytes.

    `pid` and effective `uid` are those of the process that opened the chip or connected, as the kernel says;
    both are 0 where the process that serves the line holds it itself.
    """

    label: str
    kind: HolderKind
    pid: int
    uid: int
    about: str = ""
    """Of a container what it is called, by who runs it"""

    @classmethod
    def of(cls, label: str, kind: HolderKind, pid: int = 0, uid: int = 0) -> "Holder":
        """With a label of any length, which is cut."""
        raw = label.encode(errors="surrogateescape")[:_LABEL_BYTES]
        return cls(raw.decode(errors="surrogateescape"), kind, pid, uid)

    def labelled(self, label: str) -> "Holder":
        """The same, by another label of at most 31 bytes."""
        return Holder(label, *self[1:])

    def __str__(self) -> str:
        """For messages; what to do about a chip is not done to a process."""
        if self.kind in (HolderKind.PROGRAM, HolderKind.VM, HolderKind.CONTAINER):
            return f'"{self.label}" (pid {self.pid}, uid {self.uid})'
        return f'"{self.label}"'
