# SPDX-License-Identifier: MIT
"""Who holds a line, as it is told."""

from __future__ import annotations

import pytest

from gpiovirt.core.holder import Holder, HolderKind
from gpiovirt.uapi import gpio as u


@pytest.mark.parametrize("label", ["", "plc", "c" * 31, "c" * 32, "\u00e4" * 20, "\udc95" * 40])
def test_a_label_is_cut_as_the_character_device_cuts_it(label: str) -> None:
    assert Holder.of(label, HolderKind.CHIP).label == u.string(u.cstring(label))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (HolderKind.PROGRAM, '"x" (pid 812, uid 1000)'),
        (HolderKind.VM, '"x" (pid 812, uid 1000)'),
        (HolderKind.CHIP, '"x"'),
        (HolderKind.HOG, '"x"'),
    ],
)
def test_a_holder_is_told_by_what_can_be_done_about_it(kind: HolderKind, told: str) -> None:
    assert str(Holder("x", kind, 812, 1000)) == told
