# SPDX-License-Identifier: MIT
"""Where a line is found again."""

from __future__ import annotations

import errno

import pytest

from gpiovirt.core.chip import ChipInfo
from gpiovirt.errors import GpiovirtError, HostError, NoSuchChipError
from gpiovirt.host.gpio_device import ChipDevice
from gpiovirt.sources.finder import LineAddress, Look


class FakeDevice(ChipDevice):
    def __init__(self, name: str, label: str, num_lines: int = 8) -> None:
        self.path = f"/dev/{name}"
        self.info = ChipInfo(name, label, num_lines)


class FakeLook(Look):
    """The chips of a kernel that has these."""

    def __init__(self, *chips: FakeDevice) -> None:
        super().__init__("/nonexistent")
        self.there = list(chips)

    def all(self) -> list[ChipDevice]:
        return [*self.there]

    def find(self, name: str) -> ChipDevice | None:
        for each in self.there:
            if each.info.name == name:
                return each
        return super().find(name)


def test_chip_is_found_by_its_label_whatever_its_number_is() -> None:
    chip = FakeDevice("gpiochip0", "fpga")
    address = FakeLook(chip).address(chip, 3)
    assert address == LineAddress("fpga", 8, 3)
    assert FakeLook(FakeDevice("gpiochip7", "fpga")).at(address).info.name == "gpiochip7"


def test_twins_are_told_apart_by_their_names() -> None:
    one, two = FakeDevice("gpiochip0", "expander"), FakeDevice("gpiochip1", "expander")
    address = FakeLook(one, two).address(two, 3)
    assert FakeLook(one, two).at(address) is two
    with pytest.raises(NoSuchChipError):  # rather none than the other one
        FakeLook(one).at(address)


def test_chip_of_another_size_is_not_it() -> None:
    chip = FakeDevice("gpiochip0", "fpga")
    address = FakeLook(chip).address(chip, 3)
    with pytest.raises(NoSuchChipError):
        FakeLook(FakeDevice("gpiochip0", "fpga", 16)).at(address)


def test_label_that_has_got_a_twin_is_refused() -> None:
    chip = FakeDevice("gpiochip0", "fpga")
    address = FakeLook(chip).address(chip, 3)
    with pytest.raises(GpiovirtError, match="2 chips are labelled"):
        FakeLook(chip, FakeDevice("gpiochip1", "fpga")).at(address)


def test_want_of_files_is_not_taken_for_want_of_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(_self: ChipDevice, path: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr(ChipDevice, "__init__", cannot)
    with pytest.raises(HostError, match="Too many open files"):
        Look("/dev")._chip("/dev/gpiochip0")
