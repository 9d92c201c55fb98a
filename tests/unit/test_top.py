# SPDX-License-Identifier: MIT
"""`gpiovirt top`: what is on the screen, to the character."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rich.text import Text
from textual.widgets import Static

from gpiovirt.errors import UsageError
from gpiovirt.top.app import TopApp
from gpiovirt.top.picture import Row, View, rows_of, text_of, wave_of
from gpiovirt.waveform.thin import UNKNOWN, Piece


def line(offset: int, name: str = "", **more: Any) -> dict[str, Any]:
    plain = {
        "offset": offset, "name": name, "direction": "input", "level": 0, "consumer": "", "holder": "",
        "used": False, "can": ["pull"], "stuck": None, "options": "", "forced": "", "there": True,
    }  # fmt: skip
    return {**plain, **more}


def chip(name: str, *lines: dict[str, Any], **more: Any) -> dict[str, Any]:
    plain = {"key": f"sim:{name}", "name": name, "state": "live", "trouble": "", "about": "app", "rules": []}
    return {**plain, "lines": list(lines), **more}


LAMP = line(1, "LAMP", direction="output", level=1, consumer="app", holder="program, pid 7, alice", used=True)


class Fake:
    """A source that stands still."""

    def __init__(self) -> None:
        self.trouble = ""
        self.pulled: list[tuple[str, int, int]] = []
        self.chips = [
            chip("panel", line(0, "DOOR"), LAMP, line(2, level=None, can=[])),
            chip("plc", state="waiting", trouble="for panel:9"),
        ]

    async def look(self) -> list[dict[str, Any]]:
        return self.chips

    def wave(self, key: str, offset: int, width: int, until_ns: int, span_ms: int) -> str:
        return ("▁▔" * width)[:width]

    async def toggle(self, key: str, offset: int, level: int) -> None:
        if level == 0:
            raise UsageError("it is stuck")
        self.pulled.append((key, offset, level))


def screen(*keys: str, width: int = 80, height: int = 24) -> tuple[list[str], Fake]:
    """What is shown after these keys."""

    async def run() -> list[str]:
        app = TopApp(make=lambda: fake, clock=lambda: 0)
        async with app.run_test(size=(width, height)) as pilot:
            await pilot.press(*keys)
            await pilot.pause()
            rows = app.query_one("#rows", Static).content
            assert isinstance(rows, Text)
            return [str(app.query_one("#head", Static).content), *rows.plain.splitlines()]

    fake = Fake()
    return asyncio.run(run()), fake


def test_the_screen_of_80_columns() -> None:
    shown, _ = screen()
    assert [row.rstrip() for row in shown] == [
        "gpiovirt top  live, 10 s",
        "panel  app",
        "  DOOR             0                         ▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁",
        "  LAMP             1 >app (program, pid 7, … ▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁",
        "  line 2           ?                         ▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁▔▁",
        "plc waiting for panel:9  app",
    ]
    assert all(len(row) == 80 for row in shown)


def test_keys_zoom_pause_and_leave_out() -> None:
    shown, _ = screen("plus", "p", "u")
    assert shown[0].startswith("gpiovirt top  paused, 5 s")
    assert [row.split()[0] for row in shown[1:]] == ["panel", "LAMP", "plc"]


def test_space_pulls_the_chosen_line_and_a_refusal_is_shown() -> None:
    _, fake = screen("down", "space")
    assert fake.pulled == [("sim:panel", 0, 1)]
    assert "it is stuck" in screen("down", "down", "space")[0][0]
    assert "only simulated lines" in screen("down", "down", "down", "space")[0][0]


def test_the_cursor_is_seen_on_a_small_terminal_and_stays_within() -> None:
    shown, _ = screen("pagedown", height=4)
    assert [row.split()[0] for row in shown[1:]] == ["line", "plc"]
    assert len(screen("pageup", width=20)[0][2]) == 20


def test_what_a_chip_has_tripped_is_shown() -> None:
    rule = {"text": "never both", "tripped": True}
    assert "TRIPPED: never both" in text_of(Row(chip("plc", rules=[rule])), lambda *_: "", 80)
    text = text_of(Row(chip("a"), line(0, stuck=1, forced="high", there=False)), lambda *_: "", 80)
    assert "stuck forced gone" in text


def test_a_waveform_hides_no_change() -> None:
    seen = [Piece(0, 0, UNKNOWN), Piece(20, 20, 0), Piece(40, 40, 1), Piece(60, 60, 0), Piece(65, 65, 1)]
    assert wave_of(seen, 0, 100, 10) == "··▁▁▔▔█▔▔▔"
    assert wave_of([Piece(0, 0, 0), Piece(30, 38, 0)], 0, 100, 10) == "▁▁▁█▁▁▁▁▁▁"
    assert wave_of(seen, 0, 100, 0) == ""


@pytest.mark.parametrize("factor", [0.0001, 1e9])
def test_zoom_has_ends(factor: float) -> None:
    assert 10 <= View().zoomed(factor).span_ms <= 86_400_000


def test_no_chips_are_no_rows() -> None:
    assert rows_of([], View()) == []
