# SPDX-License-Identifier: MIT
"""`gpiovirt top` on the screen: keys, and when it is drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Static

from gpiovirt.errors import GpiovirtError
from gpiovirt.top.picture import Row, View, heading, rows_of, text_of
from gpiovirt.top.source import Source

__all__ = ["Shows", "TopApp"]

_LOOK_S = 1.0
_DRAW_S = 0.25


class Shows(Protocol):
    """What is shown, as Source has it."""

    trouble: str

    async def look(self) -> list[dict[str, Any]]: ...

    def wave(self, key: str, offset: int, width: int, until_ns: int, span_ms: int) -> str: ...

    async def toggle(self, key: str, offset: int, level: int) -> None: ...


class TopApp(App[None]):
    """Chips and lines; keyboard only."""

    CSS = "Screen { layout: vertical; } #head { height: 1; text-style: bold; } #rows { height: 1fr; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("up,k", "select(-1)", "Up", show=False),
        Binding("down,j", "select(1)", "Down", show=False),
        Binding("pageup", "select(-20)", "Page up", show=False),
        Binding("pagedown", "select(20)", "Page down", show=False),
        Binding("space", "pull", "Pull"),
        Binding("p", "pause", "Pause"),
        Binding("plus,equals_sign", "zoom(0.5)", "Zoom in", key_display="+"),
        Binding("minus", "zoom(2.0)", "Out", key_display="-"),
        Binding("u", "used", "In use"),
    ]

    def __init__(
        self,
        names: frozenset[str] = frozenset(),
        make: Callable[[], Shows] = Source,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Of chips of these names, or all."""
        super().__init__()
        self._names = names
        self._make = make
        self._clock = clock
        self._view = View()
        self._chips: list[dict[str, Any]] = []
        self._rows: list[Row] = []
        self._first = 0
        self._until_ns = 0
        self._said = ""

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Static(id="rows", markup=False)
        yield Footer()

    async def on_mount(self) -> None:
        self._source = self._make()
        await self._look()
        self.set_interval(_LOOK_S, self._look)
        self.set_interval(_DRAW_S, self._draw)

    async def _look(self) -> None:
        chips = await self._source.look()
        self._chips = [chip for chip in chips if not self._names or chip["name"] in self._names]
        self._draw()

    def _draw(self) -> None:
        view = self._view
        if not view.is_paused:
            self._until_ns = self._clock()
        self._rows = rows_of(self._chips, view)
        width, height = self.size.width, max(self.size.height - 2, 1)
        selected = min(view.selected, max(len(self._rows) - 1, 0))
        self._view = view = view._replace(selected=selected)
        self._first = min(max(self._first, selected - height + 1), selected)
        text = Text(no_wrap=True, overflow="crop")
        for number, row in enumerate(self._rows[self._first : self._first + height], self._first):
            style = "reverse" if number == selected else "bold" if row.line is None else ""
            text.append(text_of(row, self._wave, width), style).append("\n")
        self.query_one("#head", Static).update(heading(view, self._said or self._source.trouble, width))
        self.query_one("#rows", Static).update(text)

    def _wave(self, key: str, offset: int, width: int) -> str:
        return self._source.wave(key, offset, width, self._until_ns, self._view.span_ms)

    def action_select(self, step: int) -> None:
        """The cursor."""
        selected = min(max(self._view.selected + step, 0), max(len(self._rows) - 1, 0))
        self._view = self._view._replace(selected=selected)
        self._said = ""
        self._draw()

    def action_pause(self) -> None:
        """Stand still, or go on."""
        self._view = self._view._replace(is_paused=not self._view.is_paused)
        self._draw()

    def action_zoom(self, factor: float) -> None:
        """More or less time."""
        self._view = self._view.zoomed(factor)
        self._draw()

    def action_used(self) -> None:
        """Only lines that somebody holds, or all."""
        self._view = self._view._replace(only_used=not self._view.only_used)
        self._draw()

    async def action_pull(self) -> None:
        """Pull the simulated line at the cursor to where it is not."""
        if not self._rows or (row := self._rows[self._view.selected]).line is None:
            return
        if "pull" not in row.line["can"]:
            self._said = "only simulated lines are pulled; drive others with: gpiovirt set, or gpiovirt web"
        else:
            self._said = ""
            try:
                await self._source.toggle(row.chip["key"], row.line["offset"], 1 - (row.line["level"] or 0))
            except GpiovirtError as error:
                self._said = str(error)
        await self._look()
