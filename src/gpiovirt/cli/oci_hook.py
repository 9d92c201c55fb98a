# SPDX-License-Identifier: MIT
"""gpiovirt-oci-hook: podman's precreate hook. Standard input is a container's configuration, output the same.

It fails open for containers without chips. For one with a chip that it may not have, the configuration says
so where the engine shows it: podman hides what a hook writes to standard error.
"""

from __future__ import annotations

import sys

from gpiovirt.control.containers import edited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["main"]

_FILE_MAX = 1 << 24


def main() -> int:
    """Edit what comes."""
    text = sys.stdin.buffer.read()
    try:
        text = edited(text, about=_about)
    except Exception as error:  # whatever it is, the container must not start as if nothing were
        text = _refused(text, error)
    sys.stdout.buffer.write(text)
    return 0


def _about(config: dict[str, Any]) -> dict[str, str]:
    """Name, image and pod: podman has them in a file of its storage, and not in a configuration."""
    import json
    import re
    from contextlib import suppress
    from pathlib import Path

    told: dict[str, str] = {}
    with suppress(OSError, ValueError, KeyError, TypeError):
        sources = "\n".join(str(mount.get("source")) for mount in config["mounts"])
        found = re.search(r"-containers/([0-9a-f]{64})/userdata/", sources)
        for driver in Path(config["root"]["path"]).parents:
            path = driver.parent / f"{driver.name}-containers/containers.json"
            if found and path.exists() and path.stat().st_size < _FILE_MAX:
                known = {each["id"]: each for each in json.loads(path.read_bytes())}
                if found[1] in known:
                    container = known[found[1]]
                    told["gpiovirt.io/name"] = container["names"][0]
                    told["gpiovirt.io/image"] = json.loads(container["metadata"])["image-name"]
                pod = known.get((config.get("annotations") or {}).get("io.kubernetes.cri-o.SandboxID"))
                if pod:
                    told["gpiovirt.io/pod"] = pod["names"][0].removesuffix("-infra")
                break
    return told


def _refused(text: bytes, error: Exception) -> bytes:
    import json
    import os

    from gpiovirt.core.text import printable
    from gpiovirt.errors import GpiovirtError
    from gpiovirt.protocols.oci import parse_config, refuse

    why = printable(str(error)) if isinstance(error, GpiovirtError) else f"internal error: {error!r}"
    sys.stderr.write(f"gpiovirt: {why}\n")
    try:
        config = parse_config(text)
        refuse(config, why, os.uname().machine)
    except GpiovirtError:
        sys.exit(1)
    return json.dumps(config).encode()


if __name__ == "__main__":
    sys.exit(main())
