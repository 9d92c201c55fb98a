# SPDX-License-Identifier: MIT
"""Recordings in FST, GTKWave's format, a tenth as large as VCD: its own programs convert them."""

from __future__ import annotations

import subprocess
import tempfile

from gpiovirt.core.text import printable
from gpiovirt.errors import HostError, UsageError
from gpiovirt.waveform.vcd import Recording, read_vcd

__all__ = ["SUFFIX", "check_can_write", "from_vcd", "read_recording"]

SUFFIX = ".fst"
_CONVERSION_S = 300


def check_can_write() -> None:
    """HostError if vcd2fst is not there."""
    from shutil import which

    if which("vcd2fst") is None:
        raise HostError("FST needs vcd2fst; install the package gtkwave, or write a .vcd file")


def from_vcd(vcd: str, fst: str) -> None:
    """Write an FST file of a VCD file; HostError."""
    _convert("vcd2fst", vcd, fst)


def read_recording(path: str) -> Recording:
    """Of a VCD or FST file; HostError, UsageError."""
    if not path.endswith(SUFFIX):
        return read_vcd(path)
    with tempfile.NamedTemporaryFile(suffix=".vcd") as file:
        _convert("fst2vcd", path, file.name)
        try:
            return read_vcd(file.name)
        except UsageError as error:
            raise UsageError(str(error).replace(file.name, path)) from error


def _convert(program: str, source: str, target: str) -> None:
    option = ["-f", source, "-o", target] if program == "fst2vcd" else ["-v", source, "-f", target]
    try:
        done = subprocess.run(
            [program, *option], capture_output=True, text=True, check=False, timeout=_CONVERSION_S
        )
    except FileNotFoundError as error:
        raise HostError(f"FST needs {program}; install the package gtkwave") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{program} does not convert {source}: {error}") from error
    if done.returncode:
        said = printable((done.stderr or done.stdout).strip()[:200])
        raise UsageError(f"{source} is no recording that {program} can convert: {said}")
