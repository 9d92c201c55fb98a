# SPDX-License-Identifier: MIT
"""CDI files: how a container engine learns what `--device gpiovirt.io/chip=NAME` means.

Specification: cncf-tags/container-device-interface SPEC.md, of which all engines read 0.5.0.
"""

import re
from typing import Any

from gpiovirt.protocols.oci import marker_mount

__all__ = ["DIRECTORY", "KIND", "cdi_file_of", "cdi_spec", "is_cdi_name"]

KIND = "gpiovirt.io/chip"
DIRECTORY = "/var/run/cdi"
"""Where engines look"""
_VERSION = "0.5.0"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]{0,61}[A-Za-z0-9])?")


def is_cdi_name(chip: str) -> bool:
    """Whether a CDI device can be called so."""
    return _NAME.fullmatch(chip) is not None


def cdi_spec(chip: str, node: str, guard: str | None) -> dict[str, Any]:
    """The contents of a chip's file; `guard` fails the start of a container that nobody has edited."""
    edits: dict[str, Any] = {"mounts": [_mount(chip, node)]}
    if guard is not None:
        edits["hooks"] = [{"hookName": "createRuntime", "path": guard}]
    return {"cdiVersion": _VERSION, "kind": KIND, "devices": [{"name": chip, "containerEdits": edits}]}


def _mount(chip: str, node: str) -> dict[str, Any]:
    mount = marker_mount(node, chip)
    return {
        "hostPath": mount["source"],
        "containerPath": mount["destination"],
        "options": mount["options"],
        "type": mount["type"],
    }


def cdi_file_of(chip: str) -> str:
    """The name of a chip's file: each has its own, so that they come and go alone."""
    return f"gpiovirt-{chip}.json"
