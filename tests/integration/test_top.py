# SPDX-License-Identifier: MIT
"""`gpiovirt top` in a terminal, on a program that runs."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

PROGRAM = """
import gpiod, time
from gpiod.line import Direction, Value
wanted = {1: gpiod.LineSettings(direction=Direction.OUTPUT)}
with gpiod.request_lines("/dev/gpiochip0", wanted, "blinks") as r:
    while True:
        for level in (1, 0):
            r.set_value(1, Value(level))
            time.sleep(0.6)
"""


def read_until_all(master: int, words: set[str], timeout_s: float = 20) -> None:
    """Return once the terminal has got all of these."""
    said = b""
    deadline = time.monotonic() + timeout_s
    while not all(word.encode() in said for word in words):
        assert time.monotonic() < deadline, said.decode(errors="replace")
        if select.select([master], [], [], 0.1)[0]:
            said += os.read(master, 65536)


def test_a_programs_lines_are_shown_and_q_ends_it() -> None:
    run = [sys.executable, "-m", "gpiovirt", "run", "--sim", "panel:DOOR,LAMP", "--"]
    with subprocess.Popen([*run, sys.executable, "-c", PROGRAM]) as program:
        master, slave = pty.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            with subprocess.Popen(
                [sys.executable, "-m", "gpiovirt", "top", "panel"],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={**os.environ, "TERM": "xterm-256color"},
            ) as top:
                try:
                    read_until_all(master, {"panel", "LAMP", "blinks", "▔"})
                    os.write(master, b"q")
                    deadline = time.monotonic() + 20
                    while top.poll() is None and time.monotonic() < deadline:
                        if select.select([master], [], [], 0.1)[0]:
                            os.read(master, 65536)
                    assert top.returncode == 0
                finally:
                    top.kill()
        finally:
            program.kill()
            os.close(master)
            os.close(slave)


def test_without_a_terminal_it_says_what_to_use() -> None:
    command = [sys.executable, "-m", "gpiovirt", "top"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a terminal" in done.stderr
