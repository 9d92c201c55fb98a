# SPDX-License-Identifier: MIT
"""Editing real configurations of real engines; each folder entry of oci/ is one as it came to the runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpiovirt.errors import UsageError
from gpiovirt.protocols.oci import (
    CHIPS_MAX,
    WAIT_KILLABLE,
    Grant,
    decode_metadata,
    edit,
    find_markers,
    marker_mount,
    parse_config,
    refuse,
)
from gpiovirt.uapi import gpio as u

FOLDER = Path(__file__).with_name("oci")
ENGINES = sorted(path.stem for path in FOLDER.glob("*.json") if not path.stem.endswith(".edited"))
NODES = "/run/gpiovirt/containers/nodes/"
GRANT = Grant("/run/gpiovirt/containers/listener", ("/run/l/136.5/gpiochip0",), ("/run/l/136.5/char",))


def chip_of(source: str) -> str | None:
    return source.removeprefix(NODES) if source.startswith(NODES) else None


def config_of(engine: str) -> dict[str, Any]:
    return parse_config((FOLDER / f"{engine}.json").read_bytes())


def edited(config: dict[str, Any], *flags: str) -> dict[str, Any]:
    edit(config, find_markers(config, chip_of), GRANT, "x86_64", flags)
    return config


def minimal(*mounts: dict[str, Any], **linux: Any) -> dict[str, Any]:
    return {"mounts": list(mounts), "linux": linux}


def asking(*names: str) -> list[dict[str, Any]]:
    return [marker_mount(NODES + name, name) for name in names]


def verdict(seccomp: dict[str, Any], request: int) -> str:
    """What a profile does with ioctl(fd, request): a rule without conditions wins, as in libseccomp."""
    found = {
        rule["action"]
        for rule in seccomp["syscalls"]
        if "ioctl" in rule["names"]
        and all(request & arg["value"] == arg["valueTwo"] for arg in rule.get("args") or [])
    }
    unconditional = {
        rule["action"] for rule in seccomp["syscalls"] if "ioctl" in rule["names"] and not rule.get("args")
    }
    actions = unconditional or found or {seccomp["defaultAction"]}
    assert len(actions) == 1, f"{request:#x}: {actions}"
    return str(actions.pop())


@pytest.mark.parametrize("engine", ENGINES)
def test_configurations_of_engines_become_what_was_agreed(engine: str) -> None:
    assert edited(config_of(engine)) == json.loads((FOLDER / f"{engine}.edited.json").read_text())


@pytest.mark.parametrize("engine", ENGINES)
def test_of_all_ioctls_those_of_gpio_are_trapped_and_others_allowed(engine: str) -> None:
    seccomp = edited(config_of(engine))["linux"]["seccomp"]
    numbers = [value for name, value in vars(u).items() if name.endswith("_IOCTL")]
    assert {verdict(seccomp, number) for number in numbers} == {"SCMP_ACT_NOTIFY"}
    for kind in range(256):
        expected = "SCMP_ACT_NOTIFY" if kind == 0xB4 else "SCMP_ACT_ALLOW"
        assert verdict(seccomp, 0xC0100001 | kind << 8) == expected, f"{kind:#x}"


@pytest.mark.parametrize("engine", ENGINES)
def test_editing_twice_is_editing_once(engine: str) -> None:
    once = edited(config_of(engine))
    assert edited(json.loads(json.dumps(once))) == once


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_that_a_profile_forbids_is_allowed(engine: str) -> None:
    before = config_of(engine)["linux"].get("seccomp") or {"defaultAction": "SCMP_ACT_ALLOW"}
    after = edited(config_of(engine))["linux"]["seccomp"]
    assert after["defaultAction"] == before["defaultAction"]

    def others(seccomp: dict[str, Any]) -> list[tuple[str, str, str]]:
        return sorted(
            (name, rule["action"], json.dumps(rule.get("args") or []))
            for rule in seccomp.get("syscalls", [])
            for name in rule["names"]
            if name != "ioctl"
        )

    assert others(after) == others(before)


def test_a_rule_about_some_ioctls_stays_and_one_that_denies_all_still_denies_the_others() -> None:
    some = {
        "names": ["ioctl"],
        "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 1, "value": 0xFFFF, "valueTwo": 0x5412, "op": "SCMP_CMP_MASKED_EQ"}],
    }
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [some]}
    seccomp = edited(minimal(*asking("plc"), seccomp=profile))["linux"]["seccomp"]
    assert verdict(seccomp, 0x5412) == "SCMP_ACT_ERRNO"
    assert verdict(seccomp, 0x5411) == "SCMP_ACT_ALLOW"
    every = {"names": ["ioctl", "mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [every]}
    seccomp = edited(minimal(*asking("plc"), seccomp=profile))["linux"]["seccomp"]
    assert verdict(seccomp, 0x5411) == "SCMP_ACT_ERRNO"
    assert verdict(seccomp, u.GPIO_GET_CHIPINFO_IOCTL) == "SCMP_ACT_NOTIFY"
    assert all(rule["errnoRet"] == 38 for rule in seccomp["syscalls"][:-1])


def test_devices_are_numbered_in_order_around_those_that_were_said() -> None:
    said = {**marker_mount(NODES + "c", "c"), "destination": "/dev/gpiochip1"}
    config = minimal(*asking("a", "b"), said)
    assert [(marker.chip, marker.device) for marker in find_markers(config, chip_of)] == [
        ("a", "gpiochip0"),
        ("b", "gpiochip2"),
        ("c", "gpiochip1"),
    ]
    destinations = [mount["destination"] for mount in edited(config)["mounts"][:3]]
    assert destinations == ["/dev/gpiochip0", "/dev/gpiochip2", "/dev/gpiochip1"]
    assert decode_metadata(config["linux"]["seccomp"]["listenerMetadata"]) == {
        "gpiochip0": "a",
        "gpiochip2": "b",
        "gpiochip1": "c",
    }


def test_a_chip_may_have_another_path_and_keeps_it() -> None:
    config = minimal({**marker_mount(NODES + "plc", "plc"), "destination": "/dev/plc"})
    assert edited(config)["mounts"][0]["destination"] == "/dev/plc"


def test_no_variable_and_no_annotation_asks_for_a_chip() -> None:
    config = minimal()
    config |= {"annotations": {"gpiovirt.io/chip": "plc"}, "process": {"env": [f"CHIP={NODES}plc"]}}
    assert find_markers(config, chip_of) == []


def test_flags_are_used_where_the_runtime_is_known_to_take_them() -> None:
    assert "flags" not in edited(minimal(*asking("plc")))["linux"]["seccomp"]
    assert edited(minimal(*asking("plc")), WAIT_KILLABLE)["linux"]["seccomp"]["flags"] == [WAIT_KILLABLE]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (minimal(*asking("plc", "plc")), "asked for twice"),
        (
            minimal(*({**mount, "destination": "/dev/gpiochip3"} for mount in asking("a", "b"))),
            "gpiochip3 is asked for twice",
        ),
        (minimal(*asking(*map(str, range(CHIPS_MAX + 1)))), "16 chips at most"),
        (minimal({**asking("a")[0], "destination": "/dev/gpiochip64"}), "at most /dev/gpiochip63"),
        (minimal({"source": NODES + "a"}), "no destination"),
        (minimal(*asking("a"), seccomp={"defaultAction": "x", "listenerPath": "/other"}), "another seccomp"),
        (minimal(*asking("a"), seccomp={"syscalls": []}), "no default action"),
        (minimal(*asking("a"), seccomp={"defaultAction": "x", "syscalls": [{}]}), "without names"),
        (minimal(*asking("a"), seccomp=[]), None),
        (minimal(*asking("a"), seccomp=[1]), "not an object"),
        (minimal(*asking("a"), maskedPaths="x"), "not a list"),
        ({"mounts": {}}, "not a list"),
    ],
)
def test_what_cannot_be_is_refused_and_why_is_said(config: dict[str, Any], why: str | None) -> None:
    if why is None:
        why = "not an object"
    with pytest.raises(UsageError, match=why):
        edited(config)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"1"])
def test_what_is_no_configuration_is_refused(text: bytes) -> None:
    with pytest.raises(UsageError, match="configuration"):
        parse_config(text)


def test_a_refusal_is_the_path_of_a_listener_that_a_runtime_can_show() -> None:
    config = config_of("podman-4.3")
    refuse(config, "the chip plc is alice's, " + "\u00e4" * 100, "x86_64")
    path = config["linux"]["seccomp"]["listenerPath"]
    assert path.startswith("/gpiovirt: the chip plc is alice's")
    assert len(path.encode()) < 108


@pytest.mark.parametrize(
    "text", [None, 7, "", "[]", "{}", '{"gpiochip0": 1}', '{"null": "a"}', "[" * 5000, '{"a"' * 900]
)
def test_metadata_of_no_chips_are_refused(text: object) -> None:
    with pytest.raises(UsageError):
        decode_metadata(text)
