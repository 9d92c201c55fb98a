# SPDX-License-Identifier: MIT
"""Where gpiovirtd finds a line again."""

from __future__ import annotations

import pytest

from gpiovirt.core.chip import ChipInfo
from gpiovirt.daemon.sources import Place, SourceChip, Sources
from gpiovirt.errors import GpiovirtError, NoSuchChipError
from gpiovirt.uapi import gpio as u


def chip(name: str, label: str, num_lines: int = 8) -> SourceChip:
    info = u.gpiochip_info.pack(u.cstring(name), u.cstring(label), num_lines)
    made = SourceChip(lambda cmd, argument: info, lambda: None)
    assert made.info == ChipInfo(name, label, num_lines)
    return made


class FakeSources(Sources):
    """Chips of a kernel that has these."""

    def __init__(self, *chips: SourceChip) -> None:
        super().__init__("/nonexistent", "/nonexistent")
        self.there = list(chips)

    def all(self) -> list[SourceChip]:
        return self.there

    def find(self, name: str) -> SourceChip | None:
        for each in self.there:
            if each.info.name == name:
                return each
        return super().find(name)


def test_a_chip_is_found_by_its_label_whatever_its_number_is() -> None:
    place = FakeSources(chip("gpiochip0", "fpga")).place(chip("gpiochip0", "fpga"), 3)
    assert place == Place("fpga", 8, 3)
    assert FakeSources(chip("gpiochip7", "fpga")).at(place).info.name == "gpiochip7"


def test_twins_are_told_apart_by_their_names() -> None:
    one, two = chip("gpiochip0", "expander"), chip("gpiochip1", "expander")
    place = FakeSources(one, two).place(two, 3)
    assert FakeSources(one, two).at(place) is two
    with pytest.raises(NoSuchChipError):  # rather none than the other one
        FakeSources(one).at(place)


def test_a_chip_of_another_size_is_not_it() -> None:
    place = FakeSources(chip("gpiochip0", "fpga")).place(chip("gpiochip0", "fpga"), 3)
    with pytest.raises(NoSuchChipError):
        FakeSources(chip("gpiochip0", "fpga", 16)).at(place)


def test_a_label_that_has_got_a_twin_is_refused() -> None:
    place = FakeSources(chip("gpiochip0", "fpga")).place(chip("gpiochip0", "fpga"), 3)
    with pytest.raises(GpiovirtError, match="2 chips are labelled"):
        FakeSources(chip("gpiochip0", "fpga"), chip("gpiochip1", "fpga")).at(place)
