# SPDX-License-Identifier: MIT
"""gpiovirt doctor: what this machine supports, what is missing and how to get it."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gpiovirt.cli.engines import engines, service
from gpiovirt.control import runtime_directories
from gpiovirt.errors import GpiovirtError
from gpiovirt.exports.process import sandbox
from gpiovirt.exports.process.filter import gpio_filter
from gpiovirt.files.main import libfuse
from gpiovirt.host import seccomp
from gpiovirt.host.installation import how_to_install
from gpiovirt.host.machine import machine
from gpiovirt.uapi.unistd import ABIS

EPILOG = """\
The exit status is 0 if `gpiovirt run` works here for this user. Nothing is changed.
"""


_PARTS = {
    "chips described by files": ("gpiovirt.configuration.files", "tomli_w"),
    "HTTP and metrics": ("gpiovirt.api.routes", "gpiovirt.api.http"),
}
"""Parts of gpiovirtd that need libraries, and the modules to import to try each"""


class Finding(NamedTuple):
    """One thing checked; if it is `needed`, `gpiovirt run` does not work without it."""

    what: str
    there: bool
    detail: str
    needed: bool = False


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: none."""


def main(_options: argparse.Namespace) -> int:
    """Check everything and print it."""
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    works = True
    for finding in findings():
        mark, colour = ("ok", 32) if finding.there else ("MISSING", 31) if finding.needed else ("no", 33)
        text = f"\x1b[{colour}m{mark:8}\x1b[0m" if colours else f"{mark:8}"
        print(f"{text}{finding.what:34}{finding.detail}")
        works = works and (finding.there or not finding.needed)
    print(f"\ngpiovirt run {'works' if works else 'does not work'} here for uid {os.getuid()}.")
    return 0 if works else 1


def findings() -> Iterator[Finding]:
    """What was checked, with what `gpiovirt run` needs first."""
    known = machine() in ABIS
    yield Finding("architecture", known, machine() if known else f"{machine()}; not {', '.join(ABIS)}", True)
    release = os.uname().release
    version = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    yield Finding("Linux 5.9 or newer", version >= (5, 9), release, True)
    yield _tried("private /dev and /sys", lambda: sandbox.enter([]), "a mount namespace, or a user namespace")
    yield _tried("seccomp user notification", _install, "programs can be supervised")
    good, bad = "Linux 5.19: kept", "before Linux 5.19 a restarted request is answered again"
    yield Finding("uninterruptible requests", version >= (5, 19), good if version >= (5, 19) else bad)
    good, bad = "Linux 6.6: calls stay fast", "before Linux 6.6 pin program and supervisor to one CPU"
    yield Finding("wake-ups on the caller's CPU", version >= (6, 6), good if version >= (6, 6) else bad)
    yield _pseudo_terminals()
    yield from _kernel_gpio()
    yield from _daemon()
    yield from _containers()
    yield from _clients()


def _tried(what: str, attempt: Callable[[], object], good: str) -> Finding:
    failed = _failure_of(attempt)
    return Finding(what, not failed, failed or good, True)


def _failure_of(attempt: Callable[[], object]) -> str:
    """Try it in a child, so that nothing changes here; if it fails, its message comes back through a pipe."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            attempt()
        except (GpiovirtError, OSError, ImportError) as error:
            os.write(writer, str(error).encode()[:4000])
        os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        failed = pipe.read()
    os.waitpid(child, 0)
    return failed


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        importlib.import_module(module)


def _install() -> None:
    os.close(seccomp.install_filter(gpio_filter()))


def _pseudo_terminals() -> Finding:
    try:
        for fd in os.openpty():
            os.close(fd)
    except OSError as error:
        return Finding("pseudo-terminals", False, f"{error.strerror}; mount devpts on /dev/pts", True)
    return Finding("pseudo-terminals", True, "stand in for chips", True)


def _kernel_gpio() -> Iterator[Finding]:
    """GPIO of this kernel, which gpiovirt does not need."""
    chips = sorted(path.name for path in Path("/sys/bus/gpio/devices").glob("gpiochip*"))
    yield Finding(
        "GPIO chips of this kernel", bool(chips), ", ".join(chips) or "none; simulated chips need none"
    )
    for driver in ("gpio-aggregator", "gpio-sim"):
        there = Path(f"/sys/bus/platform/drivers/{driver}").exists()
        yield Finding(f"the kernel's {driver}", there, "loaded" if there else "not loaded; not needed")


def _daemon() -> Iterator[Finding]:
    """gpiovirtd, and what its parts need."""
    running = [path for path in runtime_directories() if os.path.exists(f"{path}/control")]
    yield Finding("gpiovirtd", bool(running), f"at {running[0]}" if running else "not running; not needed")
    missing = [
        hint
        for hint, there in (
            ("/dev/fuse", os.access("/dev/fuse", os.R_OK | os.W_OK)),
            ("apt-get install fuse3", libfuse()),
            (how_to_install("daemon"), importlib.util.find_spec("mfusepy")),
        )
        if not there
    ]
    yield Finding(
        "control files (new_device)", not missing, "missing: " + "; ".join(missing) if missing else "FUSE"
    )
    for what, modules in _PARTS.items():
        failed = _failure_of(partial(_import, modules))
        yield Finding(what, not failed, f"{failed}; {how_to_install('daemon')}" if failed else "installed")


def _containers() -> Iterator[Finding]:
    """Engines that can give chips to containers."""
    listener = service()
    yield Finding(
        "chips in containers", bool(listener), f"at {listener}" if listener else "gpiovirtd serves them"
    )
    for name, version, missing in engines():
        add = (
            "; add " + "\n".join([missing[0], *(f"{'':46}{line}" for line in missing[1:])]) if missing else ""
        )
        yield Finding(f"  {name}", not missing, f"{version}{add or ': ready'}")


def _clients() -> Iterator[Finding]:
    """Programs to try virtual chips with."""
    tools = shutil.which("gpioinfo")
    yield Finding("GPIO tools", bool(tools), tools or "apt-get install gpiod, to look at chips")
    binding = importlib.util.find_spec("gpiod") is not None
    yield Finding("Python binding gpiod", binding, "installed" if binding else "pip install gpiod")
