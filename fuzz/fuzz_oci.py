# SPDX-License-Identifier: MIT
"""Fuzz the editor of containers' configurations, with real ones that are altered at random."""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import harness
from gpiovirt.errors import UsageError
from gpiovirt.protocols.oci import Grant, decode_metadata, edit, find_markers, marker_mount, refuse

INVARIANT = (
    "any configuration is refused as wrong usage, or edited: then again it stays the same, no rule about "
    "another call is changed, and the listener is told the chips whose nodes are mounted"
)
FOLDER = Path(__file__).parents[1] / "tests/unit/oci"
CONFIGS = [json.loads(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))]
NODES = "/run/gpiovirt/containers/nodes/"
GRANT = Grant("/run/gpiovirt/containers/listener", ("/a/bus", "/b/bus"), ("/a/char",))
VALUES: list[Any] = [
    *(None, True, 0, -1, 1 << 70, 1.5, "", "ioctl", "SCMP_ACT_ALLOW", "/dev/gpiochip0", "/dev/gpiochip99"),
    *([], {}, ["ioctl"], [None], {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW"}, NODES + "plc", "\0", [[]]),
]


def chip_of(source: str) -> str | None:
    return source.removeprefix(NODES) if source.startswith(NODES) else None


def places(config: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in it."""
    found: list[tuple[Any, Any]] = []
    pending = [config] if isinstance(config, dict | list) else []
    while pending:
        holder = pending.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                pending.append(holder[key])
    return found


def others(config: dict[str, Any]) -> list[str]:
    seccomp = (config.get("linux") or {}).get("seccomp") or {}
    return sorted(
        json.dumps([name, {**rule, "names": 0}])
        for rule in seccomp.get("syscalls") or []
        for name in rule["names"]
        if name != "ioctl"
    )


def once(rng: random.Random) -> None:
    config = copy.deepcopy(rng.choice(CONFIGS))
    for name in rng.sample(["a", "b", "a+b", "plc"], rng.randrange(4)):
        config["mounts"].append(marker_mount(NODES + name, name))
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        linux = config.get("linux")
        holder, key = rng.choice(places(linux if rng.random() < 0.5 else config) or places(config))
        if rng.random() < 0.3 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    try:
        markers = find_markers(config, chip_of)
        refuse(copy.deepcopy(config), "why", "x86_64")
        before = others(config)
        edit(config, markers, GRANT, "x86_64")
    except UsageError:
        return
    assert others(config) == before
    text = json.dumps(config)
    again = json.loads(text)
    edit(again, find_markers(again, chip_of), GRANT, "x86_64")
    assert json.dumps(again) == text
    if markers:
        told = decode_metadata(config["linux"]["seccomp"]["listenerMetadata"])
        mounted = [mount.get("source") for mount in config["mounts"] if isinstance(mount, dict)]
        assert [NODES + chip for chip in told.values()] == [
            source for source in mounted if isinstance(source, str) and chip_of(source) is not None
        ]


if __name__ == "__main__":
    sys.exit(harness.main(INVARIANT, once))
