# SPDX-License-Identifier: MIT
"""Files of boards: each of ours is whole, and what is wrong in one is said with its place."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from gpiovirt import boards
from gpiovirt.errors import HostError, UsageError
from gpiovirt.sources.simulator import HOG_SETTINGS

CHIP = '[[chip]]\nnumber = 0\nlabel = "bank"\nlines = ["DOOR", "LAMP"]\n'


@pytest.mark.parametrize("name", boards.names())
def test_a_board_names_its_sources_and_its_lines_are_on_its_header(name: str) -> None:
    board = boards.load(name)
    assert board.name
    assert board.source
    assert all(source.startswith("https://") for source in board.source)
    lines = [(pin.chip.label, pin.offset) for header in board.headers for pin in header.pins if pin.chip]
    assert len(set(lines)) == len(lines) > 20
    assert board.device_tree or board.dmi


@pytest.mark.parametrize("name", ["pi3", "pi4", "pi5", "zero2"])
def test_all_that_tells_a_raspberry_pis_revision_tells_the_same(name: str) -> None:
    board = boards.load(name)
    (revision,) = struct.unpack(">I", board.device_tree["system/linux,revision"])
    cpuinfo = board.cpuinfo.decode()
    assert f"Revision\t: {revision:x}\n" in cpuinfo
    assert f"Model\t\t: {board.device_tree['model'].decode()[:-1]}\n" in cpuinfo
    assert cpuinfo.count("processor\t: ") == 4
    (header,) = board.headers
    assert len(header.pins) == 40
    for pin in header.pins:
        if pin.name.startswith("GPIO"):
            assert (pin.chip and pin.chip.number, pin.offset) == (0, int(pin.name[4:]))


@pytest.mark.parametrize(
    ("name", "kind", "processor"),
    [("pi3", 0x0D, 2), ("pi4", 0x11, 3), ("pi5", 0x17, 4), ("zero2", 0x12, 2)],
)
def test_a_raspberry_pis_revision_is_the_code_of_its_model(name: str, kind: int, processor: int) -> None:
    """NOQuuuWuFMMMCCCCPPPPTTTTTTTTRRRR: new flag, memory, maker, processor, type, revision."""
    board = boards.load(name)
    (revision,) = struct.unpack(">I", board.device_tree["system/linux,revision"])
    assert revision >> 23 & 1
    assert (revision >> 4 & 0xFF, revision >> 12 & 0xF) == (kind, processor)
    assert board.device_tree["model"].decode().endswith(f"Rev 1.{revision & 0xF}\0")


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "plant.toml"
    path.write_text(
        CHIP
        + 'links = [3]\ncompatible = ["a,b", "c,d"]\n'
        + 'hogs = [{ line = 1, consumer = "lamp", as = "output-high" }]\n'
        + '[[header]]\nname = "X1"\npins = ["24V", "DOOR", "spare=0:1"]\n'
        + '[device-tree]\nmodel = "Plant"\n"system/linux,revision" = 0x1234\n'
        + '[cpuinfo]\nprocessors = 2\neach = { BogoMIPS = "1.00" }\nmachine = { Serial = "1" }\n'
    )
    board = boards.load(str(path))
    assert (board.key, board.name) == ("plant", "plant")
    (chip,) = board.chips
    assert chip.compatible == b"a,b\0c,d\0"
    assert chip.links == [3]
    assert chip.hogs == [boards.Hog(1, "lamp", HOG_SETTINGS["output-high"])]
    assert [(pin.name, pin.chip is chip, pin.offset) for pin in board.headers[0].pins] == [
        ("24V", False, 0),
        ("DOOR", True, 0),
        ("spare", True, 1),
    ]
    assert board.device_tree == {"model": b"Plant\0", "system/linux,revision": b"\0\0\x12\x34"}
    assert board.cpuinfo == (
        b"processor\t: 0\nBogoMIPS\t: 1.00\n\nprocessor\t: 1\nBogoMIPS\t: 1.00\n\nSerial\t\t: 1\n"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "chip: is missing"),
        ("chip = []", "chip: a board has 1 to 64 of them"),
        (CHIP + CHIP, "label: bank is there twice"),
        (CHIP + CHIP.replace("bank", "two"), "number: 0 is there twice"),
        (CHIP + "links = [0]", "number: 0 is there twice"),
        (CHIP.replace("label", "labels"), r"chip\[0\].labels: no such key \(did you mean label"),
        (CHIP.replace("0", '"0"'), r"chip\[0\].number: is not a number"),
        (CHIP.replace('["DOOR", "LAMP"]', "0"), r"chip\[0\].lines: a chip has 1 to 65535 lines"),
        (CHIP.replace('["DOOR", "LAMP"]', "1000000000000"), r"chip\[0\].lines: a chip has 1 to"),
        (CHIP.replace("DOOR", "D" * 32), "cannot name a line"),
        (CHIP.replace("bank", "b" * 32), r"chip\[0\].label: use 1 to 31 bytes"),
        (
            CHIP + 'hogs = [{ line = 2, consumer = "x", as = "input" }]',
            r"hogs\[0\].line: 2 is not among 0 to 1",
        ),
        (CHIP + 'hogs = [{ line = 1, consumer = "x", as = "up" }]', "'up' is none of input"),
        (CHIP + '[[header]]\nname = "J1"\npins = ["A=1:0"]', "write NAME=CHIP:OFFSET"),
        (CHIP + '[device-tree]\n"../../etc/passwd" = "x"', "not a path below that directory"),
        (CHIP + '[dmi]\n"/etc/passwd" = "x"', "not a path below that directory"),
        (CHIP + "[device-tree]\nmodel = 1.5", "write a text, texts or a number of 32 bits"),
        (CHIP + "[device-tree]\nmodel = 0x100000000", "write a text, texts or a number of 32 bits"),
        (CHIP + "[cpuinfo]\nprocessors = 100000", "100000 is not among 0 to 1024"),
        (CHIP + 'name = "\\u001b[2J"', "name: no such key|name: not a printable text"),
        ("[[chip", "Expected"),
        ("\x80", "decode|Invalid"),
        ("a = " + "[" * 5000, "recursion|Invalid|maximum"),
        ("#" * (1 << 20) + "\n", "larger than 1048576 bytes"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=says) as raised:
        boards.load(str(path))
    assert str(raised.value).startswith(f"{path}: ") or "cannot name a line" in says


def test_a_board_that_is_not_there_is_told_by_its_nearest_names() -> None:
    with pytest.raises(
        UsageError, match=r"no board 'pi6' \(did you mean pi5 or pi4 or pi3\?\); the boards are: bea"
    ):
        boards.load("pi6")
    with pytest.raises(HostError, match=r"cannot read the board ./pi5: No such file"):
        boards.load("./pi5")
