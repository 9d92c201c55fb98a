# SPDX-License-Identifier: MIT
"""Who holds lines in tests."""

from __future__ import annotations

from gpiovirt.core.holder import Holder, HolderKind

__all__ = ["OPENER", "VMM", "program"]

OPENER = Holder("", HolderKind.PROGRAM, 812, 1000)
"""Who has a chip open"""
VMM = Holder("vm:qemu:900", HolderKind.VM, 900, 107)


def program(label: str) -> Holder:
    """A program that calls itself so."""
    return OPENER.labelled(label)
