# SPDX-License-Identifier: MIT
"""What `gpiovirt vm-args libvirt` prints, as libvirt itself reads it, and starts a VM by it."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpiovirt.testing.service import Service
from guests.recipes import RECIPES, build_path

pytestmark = pytest.mark.usefixtures("has_x86")

DOMAIN = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>plc</name>
<memory unit='MiB'>128</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
{}
</domain>
"""


def devices(*arguments: str) -> str:
    command = [sys.executable, "-m", "gpiovirt", "vm-args", "libvirt", *arguments]
    return subprocess.check_output(command, text=True)


def domain(*arguments: str) -> str:
    return DOMAIN.format(devices(*arguments))


@contextmanager
def served(path: Path) -> Iterator[str]:
    """A socket at `path`; who may listen there does not matter here."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        yield str(path)


def test_xml_is_valid_in_a_domain(tmp_path: Path) -> None:
    path = tmp_path / "domain.xml"
    with served(tmp_path / "a,b.sock") as one, served(tmp_path / "c.sock") as other:
        path.write_text(domain(one, other, "--reconnect"))
    done = subprocess.run(["virt-xml-validate", path, "domain"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that another user can write to."""
    with tempfile.TemporaryDirectory(prefix="gpiovirt-libvirt-") as path:
        os.chmod(path, 0o777)
        yield Path(path)


@contextmanager
def virsh(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """libvirt's driver within virsh, without its daemons, which it is not as root."""
    settings = folder / "root/etc/qemu.conf"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('stdio_handler = "file"\n')
    for path in (settings.parent.parent, settings.parent):
        path.chmod(0o777)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"), str(folder))
    with subprocess.Popen(
        [*nobody, "virsh", "-q", "-c", f"qemu:///embed?root={folder}/root", *arguments],
        env=os.environ | homes,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process


def test_qemu_gets_the_device_and_memory_that_can_be_shared(folder: Path) -> None:
    with served(folder / "plc.sock") as path:
        (folder / "xml").write_text(domain(path))
    with virsh(folder, "domxml-to-native", "qemu-argv", f"{folder}/xml") as process:
        printed = process.communicate()[0]
    assert process.returncode == 0, printed
    for wanted in (
        '"qom-type":"memory-backend-memfd"',
        '"share":true',
        f"-chardev socket,id=gpiovirt0,path={path} ",
        "-device vhost-user-gpio-pci,chardev=gpiovirt0,addr=0x18 ",
    ):
        assert wanted in printed


BOOTED = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>plc</name>
<memory unit='MiB'>256</memory>
<os>
  <type arch='x86_64' machine='q35'>hvm</type>
  <kernel>{folder}/bzImage</kernel>
  <initrd>{folder}/initramfs.cpio</initrd>
  <cmdline>console=ttyS0 panic=-1 guest_port=/dev/ttyS1</cmdline>
</os>
<cpu mode='maximum'/>
<devices>
  <serial type='file'><source path='{folder}/console'/></serial>
  <serial type='unix'><source mode='bind' path='{folder}/port'/><target port='1'/></serial>
</devices>
{devices}
</domain>
"""


def test_a_domain_that_libvirt_starts_has_the_lines(folder: Path) -> None:
    for name, file in (("x86", "bzImage"), ("initramfs", "initramfs.cpio")):
        shutil.copy(build_path(RECIPES[name]) / file, folder)
    path = f"{folder}/plc.sock"
    arguments = ["--sim", "a:DOOR,LAMP", "--wire", "a:0=a:1", "--vm", f"a={path}", "--owner", "a=65534:65534"]
    with Service(arguments) as service, virsh(folder) as libvirt, socket.socket(socket.AF_UNIX) as port:
        assert libvirt.stdin
        (folder / "xml").write_text(BOOTED.format(folder=folder, devices=devices(path)))
        print(f"create {folder}/xml", file=libvirt.stdin, flush=True)
        service.wait_for_log("has connected")
        port.settimeout(60)
        port.connect(f"{folder}/port")
        with port.makefile("rw", encoding="ascii") as guest:
            assert guest.readline().startswith("ready ")
            script = "gpioinfo; gpioset -m time -s 2 gpiochip0 1=1 & sleep 1; gpioget gpiochip0 0; wait"
            print("30", base64.b64encode(script.encode()).decode(), file=guest, flush=True)
            status, printed, _ = (guest.readline() for _ in range(3))
        said = base64.b64decode(printed).decode()
        libvirt.communicate("destroy plc\nquit\n", timeout=30)
        service.wait_for_log("is gone")
    assert (int(status), said.splitlines()[-1]) == (0, "1"), said
    assert "DOOR" in said
    assert "LAMP" in said
