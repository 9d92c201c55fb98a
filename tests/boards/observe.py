# SPDX-License-Identifier: MIT
"""Runs on a board: what lines of a /dev/gpiochipN do, one JSON object a line, by plain ioctls.

python3 observe.py lines PATH OFFSET...    names, and what each configuration gives
python3 observe.py edges PATH OFFSET [US]  "ready", then the edges that came until there were two, and whether
                                           another comes soon; debounced by US
python3 observe.py quiet PATH OFFSET        make it an input, and forget the edges that came before that
python3 observe.py hold PATH OFFSET        drive it high, then low and high on each SIGUSR1, until killed
python3 observe.py longest PATH OFFSET S   drive it low and high for S seconds: how long that took at most
python3 observe.py unplug PATH OFFSET      hold it until it is gone, then ask for it until it is back
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import struct
import sys
import time

# linux/gpio.h
GET_LINEINFO, GET_LINE, GET_VALUES, SET_VALUES = 0xC100B405, 0xC250B407, 0xC010B40E, 0xC010B40F
ACTIVE_LOW, INPUT, OUTPUT, RISING, FALLING, OPEN_DRAIN, OPEN_SOURCE = (1 << bit for bit in range(1, 8))
PULL_UP, PULL_DOWN, NO_BIAS = (1 << bit for bit in range(8, 11))
HIGH = 1 << 32
"""Not of the kernel's: an output begins high"""

CONFIGURATIONS = {
    "as it is": 0,
    "input": INPUT,
    "low": OUTPUT,
    "high": OUTPUT | HIGH,
    "active-low high": OUTPUT | ACTIVE_LOW | HIGH,
    "open drain high": OUTPUT | OPEN_DRAIN | HIGH,
    "open source low": OUTPUT | OPEN_SOURCE,
    "pull-up": INPUT | PULL_UP,
    "pull-down": INPUT | PULL_DOWN,
    "no bias": INPUT | NO_BIAS,
    "edges": INPUT | RISING | FALLING,
}


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def request(chip: int, offset: int, flags: int, debounce_us: int = 0) -> int:
    attributes = []
    if flags & OUTPUT:  # GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES
        attributes.append(struct.pack("=IIQQ", 2, 0, (flags & HIGH) >> 32, 1))
    if debounce_us:  # GPIO_V2_LINE_ATTR_ID_DEBOUNCE
        attributes.append(struct.pack("=IIQQ", 3, 0, debounce_us, 1))
    config = struct.pack("=QI20x", flags & ~HIGH, len(attributes)) + b"".join(attributes).ljust(240, b"\0")
    wanted = bytearray(
        struct.pack("=256s32s272sII20xi", struct.pack("=I", offset), b"observe", config, 1, 0, 0)
    )
    fcntl.ioctl(chip, GET_LINE, wanted)
    return int(struct.unpack_from("=i", wanted, 588)[0])


def get(line: int) -> int:
    values = bytearray(struct.pack("=QQ", 0, 1))
    fcntl.ioctl(line, GET_VALUES, values)
    return int(struct.unpack("=QQ", values)[0])


def put(line: int, value: int) -> None:
    fcntl.ioctl(line, SET_VALUES, struct.pack("=QQ", value, 1))


def info(chip: int, offset: int) -> tuple[str, int]:
    """Name and flags."""
    told = bytearray(struct.pack("=64sI188x", b"", offset))
    fcntl.ioctl(chip, GET_LINEINFO, told)
    name, flags = struct.unpack_from("=32s40xQ", told)
    return name.rstrip(b"\0").decode(), flags


def attempt(what: object) -> object:
    """What a call gives, or its errno."""
    try:
        return what()  # type: ignore[operator]
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def configured(chip: int, offset: int, flags: int) -> object:
    line = request(chip, offset, flags)
    try:
        seen = [get(line), info(chip, offset)[1]]
        if flags & OUTPUT:
            for value in 0, 1, 0:
                put(line, value)
                seen.append(get(line))
        return seen
    finally:
        os.close(line)


def lines(path: str, *offsets: str) -> None:
    chip = os.open(path, os.O_RDWR)
    for number, offset in enumerate(map(int, offsets)):
        say(line=number, name=info(chip, offset)[0])
        for name, flags in CONFIGURATIONS.items():
            say(line=number, configuration=name, seen=attempt(lambda: configured(chip, offset, flags)))  # noqa: B023


def edges(path: str, offset: str, debounce_us: str = "0") -> None:
    line = request(os.open(path, os.O_RDWR), int(offset), INPUT | RISING | FALLING, int(debounce_us))
    say(ready=True)
    for _ in range(2):
        say(edge=struct.unpack_from("=QI", os.read(line, 48))[1])
    say(more=bool(select.select([line], [], [], 2)[0]))


def quiet(path: str, offset: str) -> None:
    line = request(os.open(path, os.O_RDWR), int(offset), INPUT | RISING | FALLING)
    while select.select([line], [], [], 0.5)[0]:
        os.read(line, 48)


def hold(path: str, offset: str) -> None:
    line = request(os.open(path, os.O_RDWR), int(offset), OUTPUT | HIGH)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    say(held=get(line), pid=os.getpid())
    while signal.sigwait([signal.SIGUSR1]):
        put(line, 0)
        low = get(line)
        put(line, 1)
        say(low=low, high=get(line))


def longest(path: str, offset: str, seconds: str) -> None:
    line = request(os.open(path, os.O_RDWR), int(offset), OUTPUT)
    say(ready=True)
    longest_s, value, end = 0.0, 0, time.monotonic() + float(seconds)
    while (began := time.monotonic()) < end:
        value ^= 1
        attempt(lambda: put(line, value))  # noqa: B023
        longest_s = max(longest_s, time.monotonic() - began)
    say(longest_s=longest_s)


def unplug(path: str, offset: str) -> None:
    chip = os.open(path, os.O_RDWR)
    line = request(chip, int(offset), OUTPUT | HIGH)
    say(held=attempt(lambda: get(line)))
    poll = select.poll()
    poll.register(line, 0)
    say(hung_up=bool(poll.poll(60_000)))
    say(gone=attempt(lambda: get(line)))
    os.close(line)
    say(asked_while_gone=attempt(lambda: request(chip, int(offset), INPUT)))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if isinstance(again := attempt(lambda: request(chip, int(offset), OUTPUT | HIGH)), int):
            say(back=attempt(lambda: get(again)))
            return
        time.sleep(0.5)
    say(back=None)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
