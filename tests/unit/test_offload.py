# SPDX-License-Identifier: MIT
"""What is written for the kernel's gpio-aggregator, and what is remembered of its devices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpiovirt.errors import InvalidError, LineBusyError
from gpiovirt.exports.kernel import record
from gpiovirt.exports.kernel.aggregator import Device, KernelLine, new_device_text
from gpiovirt.exports.kernel.record import Record, file_name, left_over


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([("a", 3)], '"a" 3'),
        ([("a", 0), ("a", 1), ("a", 2), ("a", 5)], '"a" 0-2 "a" 5'),
        ([("a", 3), ("a", 1), ("a", 2)], '"a" 3 "a" 1-2'),
        ([("a", 1), ("b c", 2), ("a", 2)], '"a" 1 "b c" 2 "a" 2'),
        ([("a", 2), ("a", 1), ("a", 0)], '"a" 2 "a" 1 "a" 0'),
    ],
)
def test_new_device_text_keeps_the_order_of_lines(lines: list[tuple[str, int]], text: str) -> None:
    assert new_device_text([KernelLine(*line) for line in lines]) == text


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([KernelLine("a=b", 0)], "has = or"),
        ([KernelLine('a"b', 0)], "has = or"),
        ([KernelLine("a", 512)], "takes offsets up to 511"),
        ([KernelLine("a" * 30, offset) for offset in range(0, 400, 2)], "200 lines in 200 runs"),
    ],
)
def test_what_new_device_would_misread_is_refused(lines: list[KernelLine], why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        new_device_text(lines)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kernel")
    return tmp_path


def die(kept: Record) -> None:
    """As the process that has it does when it is killed."""
    os.close(kept._fd)


def test_a_chip_is_one_processs_at_a_time(folder: Path) -> None:
    first = Record("plc")
    with pytest.raises(LineBusyError, match="another gpiovirt has made a kernel chip of 'plc'"):
        Record("plc")
    Record("other").close()
    first.close()
    Record("plc").close()
    assert list((folder / "kernel").iterdir()) == []


def test_what_a_killed_process_had_is_found(folder: Path) -> None:
    there = Device("cpu", os.stat("/sys/bus/cpu").st_ino)
    killed = Record("plc")
    killed.write(there)
    assert list(left_over()) == []
    die(killed)
    again = Record("plc")
    assert again.before == there
    again.close()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'["plc", 1, 2, 3]', b"\xff", b"9" * 5000])
def test_a_damaged_record_is_none(folder: Path, text: bytes) -> None:
    die(Record("plc"))
    (folder / "kernel" / file_name("plc")).write_bytes(text)
    assert Record("plc").before is None
    assert list(left_over()) == []


def test_names_of_files_are_plain_and_differ() -> None:
    names = ["plc", "a/b", "a%2fb", "..", "", "ä", "a b"]
    assert len({file_name(name) for name in names}) == len(names)
    assert all(set(file_name(name)) <= {*map(chr, range(33, 127))} - {"/"} for name in names)
