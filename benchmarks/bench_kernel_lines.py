# SPDX-License-Identifier: MIT
"""Lines of a real kernel, in a guest, in us: median (p99) of the best of 7 rounds; ratios over all rounds

User Mode Linux, whose system calls are slow: only what stands side by side can be compared. *gpio-sim*
is the chip itself, *aggregator* a gpio-aggregator over such a chip made by hand, *--kernel* one that
`gpiovirt serve --kernel` made, *run* a program under `gpiovirt run` on a virtual chip over gpio-sim,
*gpiovirtd* such a program on a chip that gpiovirtd keeps: its supervisor asks the chip's worker.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from statistics import median

from benchmarks.harness import GPIOVIRT, HERE, Row, Times, built, scaled
from guests.guest import Uml

ROOT = HERE.parent
ROUNDS = scaled(7)
COUNTS = {"set": 1000, "get": 1000, "request": 300, "edge": 300}
OPERATIONS = {
    "set": "SET_VALUES of one line",
    "get": "GET_VALUES of one line",
    "request": "GET_LINE and close",
    "edge": "pull of a line to its edge event read",
}

# prints, for each way to a gpio-sim of its own: NAME CHIP PULL
SET_UP = f"""
cd {ROOT}
set -- $(guests/gpio-sim direct 4); echo gpio-sim /dev/$1 $2
set -- $(guests/gpio-sim by-hand 4); by_hand=$2
echo by-hand 0-3 >/sys/bus/platform/drivers/gpio-aggregator/new_device
echo aggregator /dev/$(basename /sys/bus/platform/devices/gpio-aggregator.0/gpiochip*) $by_hand
set -- $(guests/gpio-sim offloaded 4)
{GPIOVIRT[0]} serve --chip 'chip=offloaded 0-3' --kernel chip >/run/offloaded 2>/run/log &
until grep -q serving /run/log; do sleep 0.05; done
read -r _ chip </run/offloaded; echo --kernel $chip $2
set -- $(guests/gpio-sim run 4); echo run /dev/gpiochip0 $2
set -- $(guests/gpio-sim kept 4); echo gpiovirtd /dev/gpiochip0 $2
export GPIOVIRT_RUNTIME_DIR=/run/gpiovirt
{GPIOVIRT[0]}d --no-files --no-config --state /run/state >/dev/null 2>/run/daemon &
until grep -q ready /run/daemon; do sleep 0.05; done
{GPIOVIRT[0]} new kept-chip 'kept 0-3' >/dev/null
"""
UNDER = {
    "run": [*GPIOVIRT, "run", "--chip", "plc=run 0-3", "--"],
    "gpiovirtd": [*GPIOVIRT, "run", "--chip", "kept-chip", "--"],
}


def _commands(operation: str, ways: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
    """What to run in the guest, by column."""
    commands = {}
    for name, (chip, world) in ways.items():
        count = str(COUNTS[operation] * (1 if name in UNDER else 5))  # each takes long enough to be measured
        if operation == "edge":
            client = [built("pull"), count, chip, "1", f"{world}/sim_gpio1/pull"]
        else:
            client = [built("client"), operation, count, chip]
        commands[name] = [*UNDER.get(name, []), *client]
    if operation != "edge":  # an edge of a chip that it does not have is none of its
        commands["C, full"] = [
            built("floor"),
            "full",
            built("client"),
            operation,
            str(COUNTS[operation]),
            "/dev/null",
        ]
    return commands


def _times(guest: Uml, command: list[str]) -> Times:
    middle, tail = guest.run(shlex.join(command)).check().split()[:2]
    return Times(int(middle) / 1000, int(tail) / 1000)


def rows() -> list[Row]:
    subprocess.run([ROOT / "guests/build", "uml"], check=True, stdout=subprocess.DEVNULL)
    found = []
    with Uml() as guest:
        lines = [line.split() for line in guest.run(SET_UP).check().splitlines()]
        ways = {name: (chip, world) for name, chip, world in lines}
        for operation, what in OPERATIONS.items():
            commands = _commands(operation, ways)
            seen: dict[str, list[Times]] = {name: [] for name in commands}
            for _ in range(ROUNDS):
                for name, command in commands.items():
                    seen[name].append(_times(guest, command))
            found.append(Row(what, _figures(seen)))
    return found


def _figures(seen: Mapping[str, list[Times]]) -> dict[str, str]:
    # whatever else the host does falls on single rounds of a guest that is one process
    figures = {
        name: f"{min(t.median_us for t in times):.1f} ({min(t.p99_us for t in times):.0f})"
        for name, times in seen.items()
    }

    def ratio(name: str, *floors: str) -> str:
        """Round by round, so that a guest that is slow for a while is so for both."""
        rounds = zip(*(seen[each] for each in (name, *floors)), strict=True)
        return f"{median(ours.median_us / sum(t.median_us for t in rest) for ours, *rest in rounds):.2f}"

    figures["--kernel / aggregator"] = ratio("--kernel", "aggregator")
    figures["gpiovirtd / run"] = ratio("gpiovirtd", "run")
    if "C, full" in seen:
        figures["run / (C, full + gpio-sim)"] = ratio("run", "C, full", "gpio-sim")
    else:
        figures["run / gpio-sim"] = ratio("run", "gpio-sim")
    return figures
