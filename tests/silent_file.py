# SPDX-License-Identifier: MIT
"""A file whose file system never answers who closes it, or asks it anything, until that is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["silent_file"]

_PROGRAM = """
import errno, os, stat, sys, time
import mfusepy

opened = False

class Silent(mfusepy.Operations):
    use_ns = True

    def getattr(self, path, fh=None):
        while opened:
            time.sleep(1)
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/file":
            return {"st_mode": stat.S_IFREG | 0o666, "st_nlink": 1, "st_size": 4096}
        raise mfusepy.FuseOSError(errno.ENOENT)

    def open(self, path, flags):
        global opened
        opened = True
        return 1

    def flush(self, path, fh):
        while True:
            time.sleep(1)

    statfs = release = read = write = flush

mfusepy.FUSE(Silent(), sys.argv[1], foreground=True, nothreads=False, attr_timeout=0)
"""


@contextmanager
def silent_file(directory: Path) -> Iterator[int]:
    """Mount at `directory`, and open. Start no program meanwhile: its copy would be closed."""
    directory.mkdir()
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, str(directory)]) as server:
        fd = -1
        try:
            deadline = time.monotonic() + 10
            while not os.path.ismount(directory):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            fd = os.open(directory / "file", os.O_RDWR | os.O_CLOEXEC)
            yield fd
        finally:
            server.kill()  # and all who wait get an error
            server.wait()
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)
            subprocess.run(["fusermount3", "-u", "-z", str(directory)], check=False, capture_output=True)
