# SPDX-License-Identifier: MIT
"""What rules cost, in us: median of 7 rounds' medians, the median of their ratios beside it

*None* is a chip without rules, *five* one whose line has a direction and a minimum time, is in two interlocks
and is watched by a watchdog; under `run` in the program's supervisor, with gpiovirtd in the chip's worker.
*C, full* is the floor of the other tables. Lines are simulated.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.harness import GPIOVIRT, Row, built, environment, scaled
from gpiovirt.protocols.control.requests import New
from gpiovirt.testing.daemon import Daemon

OPERATIONS = {
    "set": "SET_VALUES of one line",
    "get": "GET_VALUES of one line",
    "request": "GET_LINE and close",
}
COUNTS = {"set": 4000, "get": 4000, "request": 1000}
ROUNDS = scaled(7)
OPTIONS = {"0": "direction=output,safe=low,min-on=1us", "1": "safe=low"}
FIVE = """
[line.0]
options = "direction=output,safe=low,min-on=1us"
[line.1]
safe = "low"
[[interlock]]
never_both = ["0", "3"]
[[interlock]]
only_while = { line = "0", is = { "2" = 0 } }
[watchdog]
line = "3"
timeout_ms = 3600000
"""
RULES = {
    "interlock": [{"never_both": ["0", "3"]}, {"only_while": {"line": "0", "is": {"2": 0}}}],
    "watchdog": {"line": "3", "timeout_ms": 3_600_000},
}


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder), ["--sim", "s:8"]) as daemon:
        rules = Path(folder) / "five.toml"
        rules.write_text(FIVE)
        with daemon.client() as client:
            client.ask(New("s 0-3", "none"))
            client.ask(New("s 4-7", "five", OPTIONS, RULES))
        run = [*GPIOVIRT, "run"]
        simulated = [*run, "--sim", "a:4", "--chip", "plc=a 0-3"]
        ways = {
            "run, none": simulated,
            "run, five": [*simulated, "--rules", str(rules)],
            "gpiovirtd, none": [*run, "--chip", "none"],
            "gpiovirtd, five": [*run, "--chip", "five"],
        }
        return [_row(operation, what, ways, daemon) for operation, what in OPERATIONS.items()]


def _row(operation: str, what: str, ways: dict[str, list[str]], daemon: Daemon) -> Row:
    client = [built("client"), operation, str(COUNTS[operation])]
    commands = {name: [*way, "--", *client, "/dev/gpiochip0"] for name, way in ways.items()}
    commands["C, full"] = [built("floor"), "full", *client, "/dev/null"]
    seen: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            seen[name].append(_median_us(command, daemon))
    figures = {name: f"{median(times):.1f}" for name, times in seen.items()}
    for how in ("run", "gpiovirtd"):
        pairs = zip(seen[f"{how}, five"], seen[f"{how}, none"], strict=True)
        figures[f"{how}: five / none"] = f"{median(five / none for five, none in pairs):.2f}"
    return Row(what, figures)


def _median_us(command: Sequence[str], daemon: Daemon) -> float:
    told = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**environment(), **daemon.environment}
    )
    return int(told.stdout.split()[0]) / 1000
