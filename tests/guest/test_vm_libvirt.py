# SPDX-License-Identifier: MIT
"""What `gpiovirt vm-args libvirt` prints, as libvirt itself reads it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("has_x86")

DOMAIN = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>plc</name>
<memory unit='MiB'>128</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
{}
</domain>
"""


def domain(*arguments: str) -> str:
    command = [sys.executable, "-m", "gpiovirt", "vm-args", "libvirt", *arguments]
    return DOMAIN.format(subprocess.check_output(command, text=True))


def test_xml_is_valid_in_a_domain(tmp_path: Path) -> None:
    path = tmp_path / "domain.xml"
    path.write_text(domain("/run/a,b.sock", "/run/c.sock", "--reconnect"))
    done = subprocess.run(["virt-xml-validate", path, "domain"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_qemu_gets_the_device_and_memory_that_can_be_shared() -> None:
    """libvirt's driver is asked without its daemon, which it does not do as root."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="gpiovirt-libvirt-") as folder:
        os.chmod(folder, 0o777)
        Path(folder, "xml").write_text(domain("/run/plc.sock"))
        homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"), folder)
        virsh = ["virsh", "-q", "-c", f"qemu:///embed?root={folder}/root"]
        done = subprocess.run(
            [*nobody, *virsh, "domxml-to-native", "qemu-argv", f"{folder}/xml"],
            env=os.environ | homes,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    for wanted in (
        '"qom-type":"memory-backend-memfd"',
        '"share":true',
        "-chardev socket,id=gpiovirt0,path=/run/plc.sock ",
        "-device vhost-user-gpio-pci,chardev=gpiovirt0 ",
    ):
        assert wanted in done.stdout
