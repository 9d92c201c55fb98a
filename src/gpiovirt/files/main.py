# SPDX-License-Identifier: MIT
"""The process that serves the control file system, and mounts it.

    python -m gpiovirt.files.main CONTROL DIRECTORY [SYSFS]

With SYSFS, a directory like /sys/bus/platform/drivers, gpio-virt-agg/ appears there, too: a read-only
overlay provides that directory, which sysfs does not let anybody make.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from contextlib import suppress

from gpiovirt.errors import HostError
from gpiovirt.host import libc
from gpiovirt.host.journal import start_logging
from gpiovirt.host.notify import sd_notify

__all__ = ["libfuse", "main", "unmount"]

_log = logging.getLogger(__name__)

CANNOT = 3
"""Exit status: there is no use in trying again"""

_MNT_DETACH = 2
_MS_RDONLY, _MS_BIND = 1, 4096
_DRIVER = "gpio-virt-agg"
_LIBRARIES = "libfuse3.so.4", "libfuse3.so.3", "libfuse.so.2"


def main() -> int:
    """Serve until SIGTERM."""
    start_logging("gpiovirtd")
    control, directory, *sysfs = sys.argv[1:]
    if name := libfuse():
        # mfusepy else has ldconfig, the compiler and the linker look for it
        os.environ.setdefault("FUSE_LIBRARY_PATH", name)
    try:
        import mfusepy

        from gpiovirt.files.file_system import ControlFileSystem
    except (ImportError, OSError) as error:
        _log.warning(
            "there are no control files: %s; install: apt-get install fuse3; pip install mfusepy", error
        )
        return CANNOT
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        _log.warning("there are no control files: this user cannot open /dev/fuse")
        return CANNOT
    unmount(directory, *sysfs)
    os.makedirs(directory, exist_ok=True)
    options = {"allow_other": True} if os.geteuid() == 0 else {}
    mounted = threading.Event()

    def on_mounted() -> None:
        mounted.set()
        sd_notify("READY=1")

    if sysfs:
        threading.Thread(target=_show, args=(mounted, directory, *sysfs), daemon=True).start()
    try:
        mfusepy.FUSE(
            ControlFileSystem(control, on_mounted),
            directory,
            foreground=True,
            default_permissions=True,
            fsname="gpiovirt",
            attr_timeout=0,
            entry_timeout=0,
            negative_timeout=0,
            nothreads=True,
            **options,
        )
    except RuntimeError as error:  # a signal is one, too
        if mounted.is_set():
            return 0
        _log.error("cannot mount the control files at %s (%s)", directory, error)
        return 1
    finally:
        unmount(directory, *sysfs)
    return 0


def libfuse() -> str:
    """Name of the FUSE library that is here; empty if none is."""
    for name in _LIBRARIES:
        with suppress(OSError):
            ctypes.CDLL(name)
            return name
    return ""


def unmount(directory: str, sysfs: str = "") -> None:
    """Take away what is mounted for the control files, whoever left it there."""
    if sysfs:
        _unmount(f"{sysfs}/{_DRIVER}")
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            ours = [line for line in mounts if f" {sysfs} " in line and " - overlay gpiovirt " in line]
        for _ in ours:
            with suppress(OSError):
                libc.umount(sysfs, _MNT_DETACH)
    _unmount(directory)


def _unmount(path: str) -> None:
    with suppress(OSError):
        while True:
            libc.umount(path, _MNT_DETACH)


def _show(mounted: threading.Event, directory: str, sysfs: str) -> None:
    """Once the file system is mounted, show the driver's directory at its place in sysfs."""
    mounted.wait()
    driver = f"{sysfs}/{_DRIVER}"
    try:
        if not os.path.isdir(driver):
            lower = f"{os.path.dirname(directory)}/.sysfs"
            os.makedirs(f"{lower}/{_DRIVER}", exist_ok=True)
            libc.mount("gpiovirt", sysfs, "overlay", _MS_RDONLY, f"lowerdir={lower}:{sysfs}")
        libc.mount(f"{directory}/{_DRIVER}", driver, None, _MS_BIND)
    except OSError as error:
        failure = HostError.of(f"cannot show {_DRIVER} in {sysfs}", error)
        _log.error("%s; the control files are at %s", failure, directory)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(main())
