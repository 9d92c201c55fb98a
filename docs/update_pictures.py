# SPDX-License-Identifier: MIT
"""Draw docs/pictures, also of a terminal in which real commands are run; a test compares them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).with_name("pictures")
STYLE = (
    "text{font:14px sans-serif;fill:#1f2328}.small{font-size:12px;fill:#57606a}.mono{font-family:monospace}"
    "rect.box{fill:#f6f8fa;stroke:#57606a;rx:6}rect.ours{fill:#ddf4ff;stroke:#0969da;rx:6}"
    "path{fill:none;stroke:#57606a;stroke-width:1.5}.dashed{stroke-dasharray:4 4}"
)
MARKER = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 8 4 0 8z" style="fill:#57606a;stroke:none"/></marker>'
)


class Box(NamedTuple):
    """A rectangle with lines of text, the first of them larger."""

    x: int
    y: int
    width: int
    height: int
    texts: Sequence[str]
    is_ours: bool = False

    def draw(self) -> str:
        kind = "ours" if self.is_ours else "box"
        parts = [
            f'<rect class="{kind}" x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}"/>'
        ]
        for number, text in enumerate(self.texts):
            parts.append(_text(self.x + 10, self.y + 22 + 18 * number, text, "small" if number else ""))
        return "".join(parts)


def _text(x: int, y: int, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text, quote=False)}</text>'


def _arrow(x1: int, y1: int, x2: int, y2: int, is_dashed: bool = False) -> str:
    return f'<path class="{"dashed" if is_dashed else ""}" marker-end="url(#tip)" d="M{x1} {y1} {x2} {y2}"/>'


def _svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    background = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    inside = "\n".join(parts)
    return (
        f"{head}\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n<defs>{MARKER}</defs>\n"
        f"{background}\n{inside}\n</svg>\n"
    )


def architecture() -> str:
    """Sources, virtual chips, consumers."""
    sources = [
        Box(20, 50, 190, 56, ["simulated chips", "run --sim, --board"]),
        Box(20, 130, 190, 56, ["kernel chips", "/dev/gpiochipN"]),
        Box(20, 210, 190, 56, ["virtual chips", "they nest"]),
    ]
    chip = Box(
        290,
        70,
        220,
        178,
        [
            "a virtual chip",
            "its lines, in its own order",
            "names, owner, group, mode",
            "bias, debounce, safe states",
            "rules: interlocks, watchdog",
            "the record of who did what",
            "",
            "one process serves it",
        ],
        True,
    )
    consumers = [
        Box(590, 30, 210, 56, ["a program", "gpiovirt run: /dev/gpiochip0"]),
        Box(590, 102, 210, 56, ["a container, a pod", "crun, podman, docker, ..."]),
        Box(590, 174, 210, 56, ["a virtual machine", "vhost-user, virtio-gpio"]),
        Box(590, 246, 210, 56, ["this kernel", "gpio-aggregator"]),
    ]
    parts = [box.draw() for box in (*sources, chip, *consumers)]
    parts += [_arrow(210, box.y + 28, 290, 159) for box in sources]
    parts += [_arrow(510, 159, 590, box.y + 28) for box in consumers]
    parts += [_text(115, 30, "sources", "small", "middle"), _text(695, 20, "consumers", "small", "middle")]
    parts += [
        Box(290, 270, 220, 56, ["gpiovirtd", "keeps chips, holds their lines"], True).draw(),
        _arrow(400, 270, 400, 248),
    ]
    return _svg(820, 340, "Lines of any chips become a chip for one consumer", parts)


LIFE = [
    (0, 1, "open /dev/gpiochip0", "a pseudo-terminal: nothing is trapped"),
    (0, 1, "ioctl GET_LINE", "the seccomp filter stops it: whose file is it?"),
    (1, 2, "request the line", "free? may it? rules; its holder is noted"),
    (1, 0, "a pipe, as the line's file", "put into the program (ADDFD)"),
    (0, 1, "ioctl SET_VALUES", ""),
    (1, 2, "drive it", "active-low, rules, dwell times; into the record"),
    (2, 1, "an edge", ""),
    (1, 0, "read and poll of the pipe", ""),
    (0, 1, "close, exit or kill -9", "the pipe's last copy is gone: POLLERR"),
    (1, 2, "release", "nobody holds it: its safe state, whoever died"),
]
"""From which column to which, what, and a remark"""


def life_of_a_line() -> str:
    """Requested, set, read, released."""
    columns = [110, 400, 690]
    names = ["the program", "its supervisor", "the chip"]
    height = 90 + 46 * len(LIFE)
    parts = []
    for x, name in zip(columns, names, strict=True):
        parts.append(f'<path class="dashed" d="M{x} 60 {x} {height - 20}"/>')
        parts.append(Box(x - 70, 20, 140, 36, [name], name != "the program").draw())
    for number, (start, end, what, remark) in enumerate(LIFE):
        y = 96 + 46 * number
        parts.append(_arrow(columns[start], y, columns[end], y))
        middle = (columns[start] + columns[end]) // 2
        parts.append(_text(middle, y - 6, what, "", "middle"))
        parts.append(_text(middle, y + 15, remark, "small", "middle"))
    return _svg(820, height, "What happens when a program requests a line, sets it, and ends", parts)


SHOWN = [
    "gpiovirt run --sim sim-a:8 --sim sim-b:DOOR,LAMP --chip 'plc=sim-a 0 3, sim-b 0-1' -- gpioinfo",
    "gpiovirt run --sim panel:DOOR,LAMP -- sh -c 'gpiovirt sim pull DOOR up; gpioget gpiochip0 0'",
    "gpiovirt run --board pi4 -- gpiodetect",
]
_COLUMNS, _LINE, _CHARACTER = 104, 19, 7.85


def first_run() -> str:
    """A terminal: commands are typed one after another, and what they print is what they printed."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    lines: list[tuple[str, bool, float]] = []
    when = 0.5
    for command in SHOWN:
        done = subprocess.run(
            ["sh", "-c", command], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        lines.append((f"$ {command}", True, when))
        when += 1.6
        lines += [(line.expandtabs(8)[:_COLUMNS], False, when) for line in done.stdout.splitlines()]
        when += 1.4
    whole = when + 4
    parts = ['<rect width="100%" height="100%" rx="8" fill="#0d1117"/>']
    parts += [f'<circle cx="{18 + 18 * number}" cy="16" r="5" fill="#484f58"/>' for number in range(3)]
    for number, (text, is_command, at_s) in enumerate(lines):
        begin, still = at_s / whole, 0.985
        colour = "#e6edf3" if is_command else "#8b949e"
        parts.append(
            f'<text class="mono" xml:space="preserve" x="14" y="{48 + _LINE * number}" style="font-size:13px;'
            f'fill:{colour}">{escape(text, quote=False)}<animate attributeName="opacity" dur="{whole:g}s" '
            f'repeatCount="indefinite" calcMode="discrete" values="0;1;0" '
            f'keyTimes="0;{begin:.3f};{still}"/></text>'
        )
    return _svg(int(_COLUMNS * _CHARACTER) + 28, 60 + _LINE * len(lines), "A first run in a terminal", parts)


PICTURES = {
    "architecture.svg": architecture,
    "life-of-a-line.svg": life_of_a_line,
    "first-run.svg": first_run,
}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw())
