# SPDX-License-Identifier: MIT
"""Lines of two simulated chips become one virtual chip, and real GPIO programs run on it.

It runs itself under `gpiovirt run`; there it starts each program, shows what that printed, and checks
it. The exit status is 1 if anything is not as expected.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec

RUN = ["run", "--sim", "sim-a:8", "--sim", "sim-b:DOOR,LAMP", "--chip", "plc=sim-a 0 3, sim-b 0-1"]
TIMEOUT_S = 15

MAPPING = """\
  simulated chips       virtual chip        programs

  sim-a:0       ----->  plc:0        \\
  sim-a:3       ----->  plc:1         |
  sim-b:0 DOOR  ----->  plc:2 DOOR    |---  /dev/gpiochip0  --->  gpiod, lgpio, ...
  sim-b:1 LAMP  ----->  plc:3 LAMP   /
  sim-a:1,2,4-7         out of reach
"""

SIM = """
def sim(*words):
    import subprocess, sys
    return subprocess.check_output([sys.executable, "-m", "gpiovirt", "sim", *words], text=True).strip()
"""

LIST = """
import gpiod
with gpiod.Chip("/dev/gpiochip0") as chip:
    print(chip.get_info())
    for offset in range(chip.get_info().num_lines):
        print(offset, chip.get_line_info(offset).name or "-")
"""

LAMP_ON = """
import gpiod
from gpiod.line import Direction, Value
on = gpiod.LineSettings(direction=Direction.OUTPUT, output_value=Value.ACTIVE)
with gpiod.request_lines("/dev/gpiochip0", {"LAMP": on}, consumer="plc"):
    print("the world sees", sim("get", "sim-b:LAMP"))
"""

READ_DOOR = """
import lgpio
sim("pull", "DOOR", "up")
chip = lgpio.gpiochip_open(0)
lgpio.gpio_claim_input(chip, 2)
print("DOOR reads", lgpio.gpio_read(chip, 2))
"""

WAIT_FOR_EDGE = """
import periphery
sim("pull", "DOOR", "up")
door = periphery.GPIO("/dev/gpiochip0", 2, "in", edge="both", bias="default")
sim("pull", "DOOR", "down")
print(door.read_event().edge if door.poll(10) else "no event")
"""

GPIOZERO = """
from gpiozero import LED
from gpiozero.pins.lgpio import LGPIOFactory
LGPIOFactory._get_revision = lambda self: 0xA03111  # it asks which Raspberry Pi it runs on
with LGPIOFactory(chip=0) as factory, LED(0, pin_factory=factory) as led:
    led.on()
    print("the world sees", sim("get", "sim-a:0"))
"""

BUSY = """
import gpiod, subprocess, sys
held = gpiod.request_lines("/dev/gpiochip0", {"LAMP": None}, consumer="first")
second = 'import periphery; periphery.GPIO("/dev/gpiochip0", 3, "in")'
sys.exit(subprocess.call([sys.executable, "-c", second]))
"""
BUSY_SAYS = "periphery.gpio.GPIOError: [Errno 16] Opening input line handle: Device or resource busy"

OUTSIDE = """
import periphery
periphery.GPIO("/dev/gpiochip0", 4, "in")
"""
OUTSIDE_SAYS = "periphery.gpio.GPIOError: [Errno 22] Opening input line handle: Invalid argument"
NEXT = ".venv/bin/gpiovirt run --sim sim-a:8 -- sh"


def painter() -> Callable[[str, str], str]:
    """Colour on a terminal, plain text elsewhere and with NO_COLOR."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return lambda _, text: text
    codes = {"title": "1", "command": "36", "good": "32", "bad": "1;31", "dim": "2"}
    return lambda style, text: f"\033[{codes[style]}m{text}\033[0m"


class Demo:
    """Shows steps and counts those whose results are not as expected."""

    def __init__(self, folder: str) -> None:
        self.paint = painter()
        self.folder = folder
        self.failed = 0

    def say(self, text: str = "") -> None:
        """Print a line."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        """Exit status and output of a command."""
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return -1, f"no end after {TIMEOUT_S} s"
        return done.returncode, done.stdout

    def check(self, status: int, printed: str, must_be: int, expected: str) -> None:
        """Show what was printed; it must be as expected, white space aside."""
        for line in printed.splitlines():
            self.say("    " + line.expandtabs(4))
        if status == must_be and expected.split() == printed.split():
            self.say(self.paint("good", "  ok"))
        else:
            self.failed += 1
            self.say(self.paint("bad", f"  WRONG: status {status}; it must be {must_be}, with: {expected}"))
        self.say()

    def command(self, title: str, command: Sequence[str], expected: str) -> None:
        """Run a program."""
        self.say(self.paint("title", title))
        self.say(self.paint("command", f"  $ {' '.join(command)}"))
        status, printed = self.run(command)
        self.check(status, printed, 0, expected)

    def python(self, title: str, source: str, expected: str, must_be: int = 0) -> None:
        """Run a Python program; of one that fails, only the error counts."""
        self.say(self.paint("title", title))
        for line in source.strip().splitlines():
            self.say(self.paint("command", f"  | {line}"))
        status, printed = self.run([sys.executable, "-c", SIM + source])
        if status:
            printed = (printed.splitlines() or [""])[-1]
        self.check(status, printed, must_be, expected)


def show(demo: Demo) -> None:
    """All steps."""
    demo.say(demo.paint("title", "Four lines of two chips become one chip"))
    demo.say(demo.paint("command", f"  $ gpiovirt {shlex.join(RUN)} -- PROGRAM"))
    demo.say("\n" + MAPPING)
    info = '<ChipInfo name="gpiochip0" label="plc" num_lines=4> 0 - 1 - 2 DOOR 3 LAMP'
    demo.python("gpiod finds the chip, and its lines only", LIST, info)
    if shutil.which("gpiodetect"):
        demo.command("so does Debian's gpiodetect", ["gpiodetect"], "gpiochip0 [plc] (4 lines)")
    demo.python("gpiod drives an output, by its name", LAMP_ON, "the world sees 1")
    has_lgpio = find_spec("lgpio") is not None  # which gpiozero uses, too
    if has_lgpio:
        demo.python("lgpio reads what the world does to an input", READ_DOOR, "DOOR reads 1")
    demo.python("python-periphery waits for an edge, and it arrives", WAIT_FOR_EDGE, "falling")
    if has_lgpio:
        demo.python("gpiozero lights an LED", GPIOZERO, "the world sees 1")
    demo.python("refused: a line that another program holds", BUSY, BUSY_SAYS, must_be=1)
    demo.python("refused: a line outside the chip", OUTSIDE, OUTSIDE_SAYS, must_be=1)


def inside() -> int:
    """The demonstration, on the virtual chip."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # lgpio leaves a file in the folder it runs in
    with tempfile.TemporaryDirectory(prefix="gpiovirt-demo-") as folder:
        demo = Demo(folder)
        show(demo)
    if demo.failed:
        demo.say(demo.paint("bad", f"{demo.failed} of the steps went wrong"))
        return 1
    demo.say("All as expected. Next, try: " + demo.paint("command", NEXT))
    return 0


def main() -> int:
    """Run this file under gpiovirt or, there already, the demonstration."""
    if sys.argv[1:] == ["inside"]:
        return inside()
    # no process stays in between: the exit status below is ours
    command = [sys.executable, "-m", "gpiovirt", *RUN, "--", sys.executable, __file__, "inside"]
    return os.execv(sys.executable, command)


if __name__ == "__main__":
    sys.exit(main())
