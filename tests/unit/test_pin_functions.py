# SPDX-License-Identifier: MIT
"""What debugfs says of pins: of a Raspberry Pi 3, of an Aspeed AST2600, and nonsense."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpiovirt.core.chip import ChipInfo
from gpiovirt.host.pin_functions import pin_functions

PI = {
    "gpio": "gpiochip0: GPIOs 512-565, parent: platform/3f200000.gpio, pinctrl-bcm2835:\n"
    " gpio-526 (TXD1                )\n\n"
    "gpiochip1: GPIOs 566-573, parent: platform/soc:firmware:gpio, raspberrypi-exp-gpio, can sleep:\n",
    "pinctrl/3f200000.gpio-pinctrl-bcm2835/gpio-ranges": "GPIO ranges handled:\n"
    "0: pinctrl-bcm2835 GPIOS [512 - 565] PINS [0 - 53]\n",
    "pinctrl/3f200000.gpio-pinctrl-bcm2835/pinmux-pins": "Pinmux settings per pin\n"
    "Format: pin (name): mux_owner gpio_owner hog?\n"
    "pin 13 (gpio13): (MUX UNCLAIMED) (GPIO UNCLAIMED)\n"
    "pin 14 (gpio14): 3f215040.serial (GPIO UNCLAIMED) function alt5 group gpio14\n"
    "pin 15 (gpio15): 3f215040.serial pinctrl-bcm2835:527 (HOG) function alt5 group gpio15\n"
    "pin 16 (gpio16): (MUX UNCLAIMED) pinctrl-bcm2835:528\n",
}
ASPEED = {
    "gpio": "gpiochip1: GPIOs 1780-1815, parent: platform/1e780800.gpio, 1e780800.gpio:\n"
    "gpiochip0: GPIOs 1816-2023, parent: platform/1e780000.gpio, 1e780000.gpio:\n",
    "pinctrl/1e6e2000.syscon:pinctrl/gpio-ranges": "GPIO ranges handled:\n"
    "0: 1e780000.gpio GPIOS [1816 - 2023] PINS [0 - 207]\n"
    "208: 1e780800.gpio GPIOS [1780 - 1815] PINS [208 - 243]\n",
    "pinctrl/1e6e2000.syscon:pinctrl/pinmux-pins": "Pinmux settings per pin\n"
    "Format: pin (name): mux_owner|gpio_owner (strict) hog?\n"
    "pin 4 (M24): UNCLAIMED\n"
    "pin 5 (M25): device 1e78a680.i2c-bus function I2C13 group I2C13\n"
    "pin 6 (L26): GPIO 1e780000.gpio:1822\n"
    "pin 209 (D26): device 1e660000.ethernet function RGMII1 group RGMII1\n",
}


def debugfs(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


def test_a_pin_may_have_a_function_beside_being_a_line(tmp_path: Path) -> None:
    found = pin_functions(ChipInfo("gpiochip0", "pinctrl-bcm2835", 54), debugfs(tmp_path, PI))
    assert found == {14: "3f215040.serial (alt5)", 15: "3f215040.serial (alt5)"}


def test_a_pin_may_have_a_function_instead(tmp_path: Path) -> None:
    at = debugfs(tmp_path, ASPEED)
    assert pin_functions(ChipInfo("gpiochip0", "1e780000.gpio", 208), at) == {5: "1e78a680.i2c-bus (I2C13)"}
    assert pin_functions(ChipInfo("gpiochip1", "1e780800.gpio", 36), at) == {1: "1e660000.ethernet (RGMII1)"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("GPIOs 512-565", "54 GPIOs"),
        ("[512 - 565]", "[0 - 99999999999999999999]"),
        ("[512 - 565]", "[500 - 501]"),
        ("PINS [0 - 53]", "PINS {0, 1, 2}"),
        ("0: pinctrl", "0: another"),
        ("function", "occupation"),
        ("pin ", "\x1b[2J\0"),
    ],
)
def test_what_is_not_understood_is_not_known(tmp_path: Path, old: str, new: str) -> None:
    files = {name: text.replace(old, new) for name, text in PI.items()}
    assert pin_functions(ChipInfo("gpiochip0", "pinctrl-bcm2835", 54), debugfs(tmp_path, files)) == {}


def test_a_range_ends_with_its_chip(tmp_path: Path) -> None:
    files = {name: text.replace("565] PINS", f"{1 << 70}] PINS") for name, text in PI.items()}
    found = pin_functions(ChipInfo("gpiochip0", "pinctrl-bcm2835", 15), debugfs(tmp_path, files))
    assert found == {14: "3f215040.serial (alt5)"}


def test_without_debugfs_nothing_is_known(tmp_path: Path) -> None:
    assert pin_functions(ChipInfo("gpiochip0", "pinctrl-bcm2835", 54), str(tmp_path)) == {}
