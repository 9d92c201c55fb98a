# SPDX-License-Identifier: MIT
"""The record on disk: SQLite files, of which one is written to and others are sealed by a chain of hashes.

A segment has its lines and holders in it, and can be read on its own. What was written before the process was
killed is there; after a power cut, up to the last checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import NamedTuple

from gpiovirt.errors import HostError

__all__ = [
    "CHAIN",
    "ChainLine",
    "HolderRow",
    "Row",
    "Segments",
    "chain_lines",
    "digest_of",
    "link",
    "segments_in",
]

_log = logging.getLogger(__name__)

CHAIN = "chain"
_NAME = re.compile(r"record-([0-9]{8})\.sqlite")
_SCHEMA = """
CREATE TABLE entry(
    line INTEGER, time INTEGER, seq INTEGER, what INTEGER, value INTEGER, holder INTEGER, text TEXT,
    PRIMARY KEY (line, time, seq)
) WITHOUT ROWID;
CREATE TABLE line(id INTEGER PRIMARY KEY, chip TEXT, offset INTEGER, name TEXT, UNIQUE (chip, offset, name));
CREATE TABLE holder(
    id INTEGER PRIMARY KEY, ring TEXT, number INTEGER, kind TEXT, pid INTEGER, uid INTEGER, label TEXT,
    command TEXT
);
CREATE INDEX holder_of_ring ON holder(ring, number);
CREATE TABLE ring(id TEXT PRIMARY KEY, next INTEGER, used INTEGER) WITHOUT ROWID;
CREATE TABLE meta(key TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
INSERT INTO meta VALUES ('version', 1), ('seq', 0), ('began', CAST(strftime('%s', 'now') AS INTEGER));
"""
_LEFT_BYTES = 1 << 20
"""What is left free on the disk, for the chips' own files"""
_SEGMENTS = 16  # of all the room that there is
_PAGE = 4096
_DAY_S = 86400.0
_HASH_BYTES = 1 << 20
_RINGS_KEPT_NS = 30 * 86400 * 10**9

Row = tuple[int, int, int, int, int, int, str | None]
"""(line, time, seq, what, value, holder, text)"""


class HolderRow(NamedTuple):
    """A holder as it is written down."""

    ring: str
    number: int
    kind: str
    pid: int
    uid: int
    label: str
    command: str


def segments_in(directory: str) -> list[str]:
    """Names of the segments, the oldest first; what is no regular file is not one."""
    found = []
    for name in os.listdir(directory):
        if _NAME.fullmatch(name) and stat.S_ISREG(os.lstat(f"{directory}/{name}").st_mode):
            found.append(name)
    return sorted(found)


def digest_of(path: str) -> str:
    """SHA-256 of a file; OSError. A link is not followed."""
    made = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        while part := file.read(_HASH_BYTES):
            made.update(part)
    return made.hexdigest()


class ChainLine(NamedTuple):
    """`what` is seal or prune; `link` is the hash over all of the chain up to here."""

    what: str
    segment: str
    digest: str
    link: str


def link(before: str, what: str, segment: str, digest: str) -> str:
    """The hash that makes a chain of the lines."""
    return hashlib.sha256(f"{before} {what} {segment} {digest}".encode()).hexdigest()


def chain_lines(directory: str) -> list[ChainLine]:
    """What was sealed and removed; lines that have not the form are left as they are, in `what`."""
    try:
        fd = os.open(f"{directory}/{CHAIN}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    with open(fd, encoding="utf-8", errors="replace") as file:
        lines = []
        for text in file.read().splitlines():
            words = text.split()
            lines.append(ChainLine(*words) if len(words) == 4 else ChainLine(text[:80], "", "", ""))
        return lines


class Segments:
    """Writes to the newest segment of a directory, and seals it when it is large or old enough.

    HostError if the directory cannot be used; sqlite3.Error if something cannot be written: then nothing is.
    """

    def __init__(self, directory: str, megabytes: int, days: int) -> None:
        self._directory = directory
        self._bytes = megabytes << 20
        self._segment_bytes = max(self._bytes // _SEGMENTS, 1 << 18)
        self._keep_s = days * _DAY_S
        self._sealing: threading.Thread | None = None
        self._lines: dict[tuple[str, int, str], int] = {}
        self._is_new = True
        self.seq = 0
        """The number of the last row"""
        try:
            self._check_room()
            there = segments_in(directory)
            self.name = there[-1] if there else _numbered(1)
            self._connection = self._open(self.name)
        except (OSError, sqlite3.Error) as error:
            failure = error if isinstance(error, OSError) else OSError(str(error))
            raise HostError.of(f"cannot use the record in {directory}", failure) from error
        self._seal_later(there[:-1])

    # a segment

    def _open(self, name: str) -> sqlite3.Connection:
        path = f"{self._directory}/{name}"
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise OSError(f"{path} is not a file of ours")
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA temp_store=MEMORY")
            pages = min(max(self._segment_bytes // _PAGE // 8, 16), 1000)
            connection.execute(f"PRAGMA wal_autocheckpoint={pages}")
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
            ((self.seq,),) = connection.execute(
                "SELECT max(value, ?) FROM meta WHERE key = 'seq'", [self.seq]
            )
            (self._began_s,) = connection.execute("SELECT value FROM meta WHERE key = 'began'").fetchone()
        except BaseException:
            connection.close()
            raise
        self._lines.clear()
        return connection

    def _check_room(self) -> None:
        status = os.statvfs(self._directory)
        if status.f_bavail * status.f_frsize < _LEFT_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def begin(self) -> None:
        """Begin a transaction; also OSError, if there is no room."""
        self._check_room()
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """What was added since is there from now on."""
        self._connection.execute("UPDATE meta SET value = ? WHERE key = 'seq'", [self.seq])
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Nothing of it is."""
        with suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")
        self._lines.clear()

    def line(self, chip: str, offset: int, name: str) -> int:
        """The number of a line in this segment."""
        key = chip, offset, name
        if (number := self._lines.get(key)) is None:
            self._connection.execute("INSERT OR IGNORE INTO line(chip, offset, name) VALUES (?, ?, ?)", key)
            ((number,),) = self._connection.execute(
                "SELECT id FROM line WHERE chip = ? AND offset = ? AND name = ?", key
            )
            self._lines[key] = number
        return number

    def holder(self, holder: HolderRow) -> int:
        """Write down a holder; the number of that in this segment."""
        made = self._connection.execute(
            "INSERT INTO holder(ring, number, kind, pid, uid, label, command) VALUES (?, ?, ?, ?, ?, ?, ?)",
            holder,
        ).lastrowid
        assert made is not None
        return made

    def find_holder(self, ring: str, number: int) -> tuple[int, HolderRow] | None:
        """The number and the holder that was written down last for this number of a ring."""
        found = self._connection.execute(
            "SELECT id, ring, number, kind, pid, uid, label, command FROM holder "
            "WHERE ring = ? AND number = ? ORDER BY id DESC LIMIT 1",
            [ring, number],
        ).fetchone()
        return None if found is None else (found[0], HolderRow(*found[1:]))

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows, which have numbers from `seq` on."""
        self._connection.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def next_of(self, ring: str) -> int:
        """The entry of a ring to go on with."""
        found = self._connection.execute("SELECT next FROM ring WHERE id = ?", [ring]).fetchone()
        return 0 if found is None else int(found[0])

    def set_next(self, ring: str, seq: int, now_ns: int) -> None:
        """From now on it is this one."""
        self._connection.execute("INSERT OR REPLACE INTO ring VALUES (?, ?, ?)", [ring, seq, now_ns])

    # one after the other

    def is_full(self, now_s: float) -> bool:
        """Whether it is time for the next segment."""
        if now_s - self._began_s >= _DAY_S:
            return True
        path = f"{self._directory}/{self.name}"
        try:
            return os.stat(path).st_size >= self._segment_bytes
        except OSError:
            return False

    def next_segment(self, now_ns: int) -> None:
        """Go on in another one; this one is sealed meanwhile. Rings go on where they were."""
        rings = self._connection.execute(
            "SELECT id, next, used FROM ring WHERE used > ?", [now_ns - _RINGS_KEPT_NS]
        ).fetchall()
        former, former_name = self._connection, self.name
        name = _numbered(int(_NAME.fullmatch(self.name)[1]) + 1)  # type: ignore[index]
        connection = self._open(name)
        try:
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO ring VALUES (?, ?, ?)", rings)
            connection.execute("UPDATE meta SET value = ? WHERE key = 'seq'", [self.seq])
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        former.close()
        self._connection, self.name = connection, name
        self._seal_later([former_name])

    def _seal_later(self, names: Sequence[str]) -> None:
        """In a thread: to hash one takes longer than a ring lasts."""
        waits_for = self._sealing

        def work() -> None:
            if waits_for is not None:
                waits_for.join()
            try:
                sealed = {line.segment for line in chain_lines(self._directory) if line.what == "seal"}
                for name in names:
                    if name not in sealed:
                        self._seal(name)
                self._prune()
            except (OSError, sqlite3.Error) as error:
                _log.error("the record cannot be sealed: %s", error)

        self._sealing = threading.Thread(target=work, daemon=True)
        self._sealing.start()

    def _seal(self, name: str) -> None:
        path = f"{self._directory}/{name}"
        for attempt in range(50):
            with closing(sqlite3.connect(path, timeout=1.0)) as connection:
                busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                break
            time.sleep(0.02 * attempt)  # somebody reads it
        os.chmod(path, 0o400)
        self._append("seal", name, digest_of(path))

    def _append(self, what: str, name: str, digest: str) -> None:
        lines = chain_lines(self._directory)
        linked = link(lines[-1].link if lines else "", what, name, digest)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(f"{self._directory}/{CHAIN}", flags, 0o600)
        try:
            os.write(fd, f"{what} {name} {digest} {linked}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        _log.info("the record up to %s: %s %s", name, "sealed as" if what == "seal" else "removed;", linked)

    def _prune(self) -> None:
        """Remove the oldest sealed segments beyond the room and the days that there are."""
        there = segments_in(self._directory)[:-1]
        sizes = {name: os.stat(f"{self._directory}/{name}") for name in there}
        total = sum(status.st_size for status in sizes.values())
        now_s = time.time()
        for name in there:
            status = sizes[name]
            if total + self._segment_bytes <= self._bytes and now_s - status.st_mtime < self._keep_s:
                break
            digests = [line.digest for line in chain_lines(self._directory) if line.segment == name]
            self._append("prune", name, digests[-1] if digests else "-")
            os.unlink(f"{self._directory}/{name}")
            total -= status.st_size

    def close(self) -> None:
        """End; what is being sealed is waited for."""
        if self._sealing is not None:
            self._sealing.join(1.0)
        with suppress(sqlite3.Error):
            self._connection.close()


def _numbered(number: int) -> str:
    return f"record-{number:08}.sqlite"
