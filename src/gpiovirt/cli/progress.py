# SPDX-License-Identifier: MIT
"""How far something is that takes a while: a line that changes on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time

from gpiovirt.core.text import printable

__all__ = ["wait"]

_TERMINAL_S, _ELSEWHERE_S = 0.5, 10.0
_CLEAR = "\r\033[K"


def wait(seconds: float, what: str) -> None:
    """Let so much time pass, and say on standard error how much has."""
    is_terminal = sys.stderr.isatty()
    step_s = _TERMINAL_S if is_terminal else _ELSEWHERE_S
    began = time.monotonic()
    try:
        while (left_s := began + seconds - time.monotonic()) > 0:
            time.sleep(min(step_s, left_s))
            passed_s = time.monotonic() - began
            if passed_s < min(seconds, 1e7):
                text = f"{printable(what)}: {passed_s:.0f} s" + (
                    f" of {seconds:g} s" if seconds < 1e7 else ""
                )
                sys.stderr.write(f"{_CLEAR}{text}" if is_terminal else f"gpiovirt: {text}\n")
                sys.stderr.flush()
    finally:
        if is_terminal:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
