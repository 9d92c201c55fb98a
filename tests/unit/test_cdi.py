# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from gpiovirt.protocols.cdi import cdi_spec, is_cdi_name


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("plc", True), ("a", True), ("rack-0_b.c", True), ("a+b", False), ("plc-", False), ("a" * 64, False)],
)
def test_devices_are_called_as_the_specification_allows(name: str, allowed: bool) -> None:
    assert is_cdi_name(name) is allowed


def test_a_chip_is_a_mount_of_its_node_and_a_hook_that_guards_it() -> None:
    spec = cdi_spec("plc", "/run/gpiovirt/containers/nodes/plc", "/usr/libexec/guard")
    assert spec == {
        "cdiVersion": "0.5.0",
        "kind": "gpiovirt.io/chip",
        "devices": [
            {
                "name": "plc",
                "containerEdits": {
                    "mounts": [
                        {
                            "hostPath": "/run/gpiovirt/containers/nodes/plc",
                            "containerPath": "/dev/gpiochip-plc",
                            "options": ["bind", "rw", "nosuid", "noexec"],
                            "type": "bind",
                        }
                    ],
                    "hooks": [{"hookName": "createRuntime", "path": "/usr/libexec/guard"}],
                },
            }
        ],
    }
    assert "hooks" not in cdi_spec("plc", "/n", None)["devices"][0]["containerEdits"]
