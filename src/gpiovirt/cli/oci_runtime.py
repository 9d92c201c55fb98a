# SPDX-License-Identifier: MIT
"""gpiovirt-runc and gpiovirt-crun: the runtime of that name, which finds containers' configurations edited.

Everything but the making of a container goes to the runtime as it is. RUNC and CRUN in the environment name
another program than the one in PATH.
"""

from __future__ import annotations

import os
import sys

from gpiovirt.control.containers import edited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["crun", "runc"]

_MAKING = frozenset({"create", "run", "restore"})
_CONFIG_MAX = 1 << 24
# global options that have a value of their own, of runc(8) and crun(1)
_WITH_VALUE = frozenset({"--log", "--log-format", "--root", "--criu", "--rootless", "--cgroup-manager"})


def runc() -> int:
    """Be runc."""
    return _be("runc")


def crun() -> int:
    """Be crun."""
    return _be("crun")


def _be(name: str) -> int:
    """1 if the container cannot have its chips; otherwise the runtime takes our place."""
    program = os.environ.get(name.upper()) or name
    arguments = sys.argv[1:]
    if (bundle := bundle_of(arguments)) is not None:
        from gpiovirt.core.text import printable
        from gpiovirt.errors import GpiovirtError

        try:
            edit_bundle(bundle, program)
        except GpiovirtError as error:
            _tell(f"gpiovirt: {printable(str(error))}", arguments)
            return 1
    try:
        os.execvp(program, [program, *arguments])  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"gpiovirt: cannot run {program}: {error.strerror}; install it\n")
        return 127


def bundle_of(arguments: Sequence[str]) -> str | None:
    """The bundle of a container that these make; None if they make none."""
    given = iter(arguments)
    for argument in given:
        if argument in _WITH_VALUE:
            next(given, None)
        elif not argument.startswith("-"):
            if argument not in _MAKING:
                return None
            break
    else:
        return None
    for argument in given:
        if argument in ("-b", "--bundle", "-bundle"):
            return next(given, None)
        for option in ("--bundle=", "-b=", "-bundle="):
            if argument.startswith(option):
                return argument.removeprefix(option)
    return "."


def _tell(why: str, arguments: Sequence[str]) -> None:
    """To whoever sees standard error, and to an engine that reads the runtime's log instead."""
    import json
    from contextlib import suppress
    from itertools import pairwise

    sys.stderr.write(f"{why}\n")
    for option, path in pairwise(arguments):
        if option == "--log":
            with suppress(OSError), open(path, "a", encoding="utf-8") as log:
                log.write(json.dumps({"level": "error", "msg": why}) + "\n")


def edit_bundle(bundle: str, program: str = "", chips: Sequence[str] = ()) -> None:
    """Edit its config.json for `chips` and those that it asks for already; GpiovirtError."""
    from gpiovirt.control.containers import prepared
    from gpiovirt.errors import HostError, UsageError

    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            text = file.read(_CONFIG_MAX + 1)
    except OSError as error:
        raise HostError.of(f"cannot read {path}", error) from error
    if len(text) > _CONFIG_MAX:
        raise UsageError(f"{path} is too long to be a container's configuration")
    wanted = prepared(text, chips) if chips else text
    changed = edited(wanted, lambda: known_flags(program))
    if changed == text:
        return
    try:
        mode = os.stat(path).st_mode & 0o777
        with open(os.open(f"{path}.gpiovirt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(changed)
        os.replace(f"{path}.gpiovirt", path)
    except OSError as error:
        raise HostError.of(f"cannot write {path}", error) from error


def known_flags(program: str) -> list[str]:
    """What that runtime, if it can be asked, takes of the flags that we would use."""
    import json

    from gpiovirt.protocols.oci import WAIT_KILLABLE

    if not program:
        return []
    try:
        known = json.loads(_output([program, "features"]))["linux"]["seccomp"]["supportedFlags"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [WAIT_KILLABLE] if isinstance(known, list) and WAIT_KILLABLE in known else []


def _output(command: list[str]) -> bytes:
    """What a program prints; empty if it fails. subprocess takes longer to import than this to run."""
    reader, writer = os.pipe()
    try:
        files = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
        child = os.posix_spawnp(command[0], command, os.environ, file_actions=files)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    with open(reader, "rb") as file:
        text = file.read(1 << 20)
    _, status = os.waitpid(child, 0)
    return b"" if status else text
