# SPDX-License-Identifier: MIT
"""Records of chips: where each kind is kept, and what is found after a crash in the middle of a change."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gpiovirt.daemon import store as module
from gpiovirt.daemon.store import Record, Store
from gpiovirt.errors import HostError
from gpiovirt.host.atomic_file import remove_file
from gpiovirt.virtual.definition import Definition


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "run").mkdir()
    return tmp_path / "state", tmp_path / "run"


@pytest.fixture
def store(folders: tuple[Path, Path]) -> Store:
    return Store(*map(str, folders))


def record(name: str = "plc", permanent: bool = False, lines: str = "a 0") -> Record:
    return Record(Definition.parse(name, lines), permanent=permanent, incarnation="0" * 16)


def kept(folders: tuple[Path, Path]) -> list[list[str]]:
    return [sorted(os.listdir(folder)) for folder in folders]


def test_a_record_is_on_the_disk_while_its_chip_is_permanent(
    store: Store, folders: tuple[Path, Path]
) -> None:
    for permanent in (False, True, False, True):
        store.save(record(permanent=permanent))
        assert kept(folders) == ([["plc.json"], []] if permanent else [[], ["plc.json"]])
        assert store.load() == [record(permanent=permanent)]
    store.remove("plc")
    assert kept(folders) == [[], []]
    store.remove("plc")  # it is not there


def test_all_records_are_found_by_name(store: Store) -> None:
    for name in "cab":
        store.save(record(name, permanent=name == "a"))
    assert [found.name for found in store.load()] == ["a", "b", "c"]


def test_no_disk_is_waited_for_where_a_record_may_be_lost_with_the_boot(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store.save(record("passing"))
    assert not synced
    store.save(record("permanent", permanent=True))
    assert len(synced) == 2  # the file, and its name


def test_what_a_crash_left_in_both_is_as_it_was_told_last(store: Store, folders: tuple[Path, Path]) -> None:
    """A chip that was being deleted, or was to become permanent and nobody has been told so."""
    store.save(record(permanent=True))
    content = (folders[0] / "plc.json").read_bytes()
    store.save(record(lines="a 1"))
    (folders[0] / "plc.json").write_bytes(content)
    assert store.load() == [record(lines="a 1")]
    store.save(record(permanent=True, lines="a 2"))
    assert kept(folders) == [["plc.json"], []]


def test_a_record_that_cannot_be_moved_stays_where_it_was(
    store: Store, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(record(permanent=True))

    def remove(path: str) -> None:
        if path.startswith(str(folders[0])):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        remove_file(path)

    monkeypatch.setattr(module, "remove_file", remove)
    with pytest.raises(HostError, match="cannot remove"):
        store.save(record())
    monkeypatch.undo()
    assert store.load()[0].permanent
