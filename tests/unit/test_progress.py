# SPDX-License-Identifier: MIT
"""Whoever waits is told how far it is, and a terminal is left as it was."""

from __future__ import annotations

import io

import pytest

from gpiovirt.cli.progress import wait


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_line_changes_and_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    wait(1.2, "plc\n")
    said = terminal.getvalue()
    assert "\r\033[Kplc\\n: 1 s of 1.2 s" in said
    assert said.endswith("\r\033[K") and "\n" not in said


def test_elsewhere_nothing_is_said_of_what_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    wait(0.05, "plc")
    assert capsys.readouterr().err == ""


def test_who_interrupts_it_has_a_clean_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Terminal):
        def flush(self) -> None:
            if self.getvalue().endswith(" s"):
                raise KeyboardInterrupt

    terminal = Interrupted()
    monkeypatch.setattr("sys.stderr", terminal)
    with pytest.raises(KeyboardInterrupt):
        wait(1e8, "plc")
    assert terminal.getvalue().endswith("\r\033[K")
