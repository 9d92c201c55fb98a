# SPDX-License-Identifier: MIT
"""Who may come in: the link's one-time token, sessions of browsers, and tokens that are kept on disk.

A session is known by two secrets: a cookie, which no script reads, and a key, which its page keeps. Other
servers of this host get the cookie, as cookies have no port; other pages cannot have the key.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.atomic_file import write_file

__all__ = ["ALL", "Kept", "Rights", "Session", "Sessions", "Tokens", "token_file"]

_SESSIONS_MAX = 64
_SESSION_S = 24 * 3600.0
_FILE_MAX = 1 << 20
_TOKENS_MAX = 1000
_PREFIX = "gpv_"


class Rights(NamedTuple):
    """What somebody may: see chips (None: all), drive lines, and manage chips, as far as our user may."""

    chips: frozenset[str] | None = None
    drive: bool = True
    manage: bool = True

    def sees(self, chip: str) -> bool:
        """Whether they may see a chip."""
        return self.chips is None or chip in self.chips


ALL = Rights()


class Kept(NamedTuple):
    """A token as it is kept: not itself."""

    id: str
    digest: str
    rights: Rights
    until_s: float
    """CLOCK_REALTIME; 0: it has no end"""


def token_file(uid: int) -> str:
    """Where a user's tokens are kept; GPIOVIRT_STATE_DIR names another folder."""
    folder = os.environ.get("GPIOVIRT_STATE_DIR")
    if not folder and uid == 0:
        folder = "/var/lib/gpiovirt"
    if not folder:
        home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        folder = f"{home}/gpiovirt"
    return f"{folder}/web-tokens.json"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()  # a token has 256 random bits


class Tokens:
    """Those in a file, which may change meanwhile."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._kept: list[Kept] = []

    def all(self) -> list[Kept]:
        """Every one, ended or not; HostError if the file is not ours or cannot be read."""
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022:
                    raise HostError(f"{self._path} can be written by others; not used")
                stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
                if stamp != self._stamp:
                    self._kept = _parse(self._path, file.read(_FILE_MAX))
                    self._stamp = stamp
        except FileNotFoundError:
            self._kept, self._stamp = [], None
        except OSError as error:
            raise HostError.of(f"cannot read {self._path}", error) from error
        return self._kept

    def find(self, token: str) -> Kept | None:
        """The one that this is, unless it has ended."""
        digest, found = _digest(token), None
        for kept in self.all():
            if hmac.compare_digest(kept.digest, digest) and not 0 < kept.until_s <= time.time():
                found = kept
        return found

    def is_valid(self, kept: Kept) -> bool:
        """It is there, and has not ended."""
        return kept in self.all() and not 0 < kept.until_s <= time.time()

    def make(self, rights: Rights, until_s: float) -> str:
        """A new one, which is told this once; those that have ended are forgotten."""
        token = _PREFIX + secrets.token_urlsafe(32)
        digest = _digest(token)
        now = time.time()
        with self._alone():
            kept = [each for each in self.all() if not 0 < each.until_s <= now]
            if len(kept) >= _TOKENS_MAX:
                raise UsageError(f"there are {_TOKENS_MAX} tokens; revoke some first")
            self._write([*kept, Kept(digest[:8], digest, rights, until_s)])
        return token

    def revoke(self, ids: Iterable[str]) -> None:
        """Have these be worth nothing; UsageError if one of them is none."""
        revoked = set(ids)
        with self._alone():
            kept = self.all()
            for other in revoked - {each.id for each in kept}:
                there = ", ".join(each.id for each in kept)
                raise UsageError(f"there is no token {other!r}; the tokens are: {there or 'none'}")
            self._write([each for each in kept if each.id not in revoked])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the file meanwhile."""
        folder = os.path.dirname(self._path)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError.of(f"cannot use {folder}", error) from error
        try:
            if os.fstat(fd).st_uid != os.getuid():  # who owns it could lead us to any file
                raise HostError(f"{folder} belongs to another user; run this as that user")
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _write(self, kept: list[Kept]) -> None:
        body = [
            {
                "id": each.id,
                "sha256": each.digest,
                "chips": None if each.rights.chips is None else sorted(each.rights.chips),
                "drive": each.rights.drive,
                "manage": each.rights.manage,
                "until": each.until_s,
            }
            for each in kept
        ]
        temporary = self._path + ".new"
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            write_file(self._path, json.dumps(body, indent=1).encode(), temporary)
        except OSError as error:
            raise HostError.of(f"cannot write {self._path}", error) from error
        self._stamp = None


def _parse(path: str, content: bytes) -> list[Kept]:
    try:
        return [_kept(each) for each in json.loads(content)]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise HostError(f"{path} is not a file of tokens") from None


def _kept(told: Any) -> Kept:
    chips = None if told["chips"] is None else frozenset(map(str, told["chips"]))
    rights = Rights(chips, told["drive"] is True, told["manage"] is True)
    return Kept(str(told["id"]), str(told["sha256"]), rights, float(told["until"]))


class Session:
    """A browser that has come in."""

    def __init__(self, rights: Rights, ends_s: float, is_valid: Callable[[], bool]) -> None:
        self.cookie = secrets.token_urlsafe(32)
        self.key = secrets.token_urlsafe(32)
        self.rights = rights
        self._ends_s = ends_s
        self._is_valid = is_valid
        self.streams = 0
        """How many pages of it look"""

    def is_over(self) -> bool:
        """It is worth nothing any more."""
        return time.monotonic() > self._ends_s or not self._is_valid()


class Sessions:
    """Those there are; a link lets one browser in, once."""

    def __init__(self, link: str | None, tokens: Tokens | None, rights: Rights = ALL) -> None:
        """`rights` are those of who comes by the link."""
        self._link = link
        self._tokens = tokens
        self._rights = rights
        self._by_cookie: dict[str, Session] = {}

    def log_in(self, token: str) -> Session | None:
        """For the link's token, or one that is kept; None for any other."""
        if self._link is not None and hmac.compare_digest(
            self._link.encode(), token.encode(errors="replace")
        ):
            self._link = None
            return self._add(self._rights, lambda: True)
        tokens = self._tokens
        if tokens is None or (kept := tokens.find(token)) is None:
            return None
        return self._add(kept.rights, lambda: tokens.is_valid(kept))

    def _add(self, rights: Rights, is_valid: Callable[[], bool]) -> Session:
        for session in [each for each in self._by_cookie.values() if each.is_over()]:
            del self._by_cookie[session.cookie]
        if len(self._by_cookie) >= _SESSIONS_MAX:
            idle = (each for each in self._by_cookie.values() if not each.streams)
            oldest = next(idle, next(iter(self._by_cookie.values())))
            del self._by_cookie[oldest.cookie]
        session = Session(rights, time.monotonic() + _SESSION_S, is_valid)
        self._by_cookie[session.cookie] = session
        return session

    def find(self, cookie: str, key: str) -> Session | None:
        """The session that both belong to."""
        session = self._by_cookie.get(cookie)
        if session is None or not hmac.compare_digest(session.key.encode(), key.encode(errors="replace")):
            return None
        return None if session.is_over() else session

    def of_token(self, token: str) -> Session | None:
        """For one request with a kept token: a session that nobody else finds."""
        if self._tokens is None or (kept := self._tokens.find(token)) is None:
            return None
        tokens = self._tokens
        return Session(kept.rights, time.monotonic() + _SESSION_S, lambda: tokens.is_valid(kept))
