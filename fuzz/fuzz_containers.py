# SPDX-License-Identifier: MIT
"""Fuzz what runtimes, editors and NRI say to the processes that serve containers."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.errors import GpiovirtError, PeerError
from gpiovirt.kubernetes.messages import NRI, TTRPC
from gpiovirt.kubernetes.nri import Plugin
from gpiovirt.kubernetes.ttrpc import PLUGIN, RUNTIME
from gpiovirt.protocols.containers import MESSAGE_MAX, Prepare, Started, decode_grant, decode_said
from gpiovirt.protocols.oci import CHIPS_MAX, Grant

INVARIANT = (
    "any bytes are a state, a question, the beginning of one, or refused; what is understood is printable "
    "and bounded; a runtime is answered or left, whatever it says of a container"
)
VALUES: list[Any] = [
    *(None, True, 0, -1, 1 << 70, "", "plc", "\0", "\x1b[2J", "x" * 5000, [], {}, [[]], {"gpiochip0": "plc"}),
    *('{"gpiochip0": "plc"}', "{}", "[" * 3000, '{"gpiochip99": 7}', {"x": {}}),
]
STATE = {
    "ociVersion": "1.0.2",
    "fds": ["seccompFd"],
    "pid": 7,
    "metadata": '{"gpiochip0": "plc"}',
    "state": {"id": "c" * 64, "annotations": {"io.kubernetes.cri.image-name": "registry/a:1"}},
}


def altered(rng: random.Random, body: Any) -> Any:
    if isinstance(body, dict) and body and rng.random() < 0.9:
        changed = dict(body)
        key = rng.choice(list(changed))
        if rng.random() < 0.2:
            del changed[key]
        else:
            changed[key] = altered(rng, changed[key])
        return changed
    return rng.choice(VALUES)


def said(rng: random.Random) -> Counter[str]:
    body: Any = rng.choice([STATE, {"prepare": {"gpiochip0": "plc", "gpiochip1": "aux"}}])
    for _ in range(rng.randrange(3)):
        body = altered(rng, body)
    text = json.dumps(body).encode()
    if rng.random() < 0.3:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.randbytes(rng.choice([0, 1, 9, MESSAGE_MAX])) + text[at:]
    if rng.random() < 0.2:
        text = text[: rng.randrange(len(text) + 1)]
    try:
        found = decode_said(text)
    except PeerError:
        return Counter(["refused"])
    if found is None:
        return Counter(["more to come"])
    assert 0 < len(found.chips) <= CHIPS_MAX
    if isinstance(found, Started):
        assert str(found.container).isprintable()
        assert len(str(found.container)) < 8000
    return Counter(["a question" if isinstance(found, Prepare) else "a state"])


def runtime(rng: random.Random) -> Counter[str]:
    plugin = Plugin(
        lambda source: source or None, lambda _: Grant("/listener", ("/bus",), ("/char",)), "x86_64"
    )
    container = NRI["Container"](id="c")
    for _ in range(rng.randrange(4)):
        texts = [rng.choice(["", "/dev/gpiochip0", "/dev/gpiochip-a", "a", "plc"]) for _ in range(3)]
        container.mounts.add(destination=texts[0], source=texts[1], type=texts[2])
    if rng.random() < 0.7:
        policy = container.linux.seccomp_policy
        policy.default_action = rng.choice(["", "SCMP_ACT_ERRNO"])
        policy.syscalls.add(names=rng.choice([[], ["ioctl"], ["read"]]), action="SCMP_ACT_ALLOW")
    method = rng.choice(["Configure", "Synchronize", "CreateContainer", "Other"])
    payload = NRI["CreateContainerRequest"](container=container).SerializeToString()
    content = TTRPC["Request"](method=method, payload=payload).SerializeToString()
    message = (
        len(content).to_bytes(4, "big") + b"\0\0\0\1" + bytes([rng.choice([1, 1, 1, 2, 9]), 0]) + content
    )
    connection = rng.choice([PLUGIN, PLUGIN, RUNTIME, 7])
    data = connection.to_bytes(4, "big") + len(message).to_bytes(4, "big") + message
    if rng.random() < 0.4:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randrange(6)) + data[at + rng.randrange(3) :]
    try:
        size = rng.choice([1, 8, len(data)])
        answer = b"".join(plugin.receive(data[at : at + size]) for at in range(0, len(data), size))
    except GpiovirtError:
        return Counter(["a runtime that is left"])
    return Counter(["a runtime that is answered" if answer else "a runtime that is heard"])


def once(rng: random.Random) -> Counter[str]:
    with suppress(GpiovirtError):
        decode_grant(json.dumps(altered(rng, {"bus": ["/a"], "char": ["/b"], "errno": 1})).encode(), "/l")
    return said(rng) + runtime(rng)


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
