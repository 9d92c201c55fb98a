# SPDX-License-Identifier: MIT
"""A machine for containers: mounts of its own with /run/gpiovirt, engines' storage and cgroups, and an image.

The image is made of this machine's GPIO programs and a static shell, so that nothing is fetched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpiovirt.testing.bundle import configuration, make_root
from tests.integration.conftest import Installation

__all__ = ["IMAGE", "USER", "Bundle", "Machine", "give_subordinate_ids", "make_root", "wait_for"]

IMAGE = "localhost/gpio:1"
SCRIPTS = {
    "gpiovirt": "__main__:main",
    "gpiovirtd": "cli.daemon:main",
    "gpiovirt-containers": "containers.main:main",
    "gpiovirt-oci-hook": "cli.oci_hook:main",
    "gpiovirt-runc": "cli.oci_runtime:runc",
    "gpiovirt-crun": "cli.oci_runtime:crun",
    "container-has-no-listener_see-gpiovirt-doctor": "cli.oci_guard:main",
}
USER = 7101  # gpvalice
# What engines and gpiovirtd use lies in file systems of this machine's own. It has all of /run: a directory
# that somebody removes elsewhere, as who purges the package does, takes what is mounted there along.
SETUP = """
mount --make-rprivate /
mount -t tmpfs -o mode=0755 own /run
mkdir -p -m 0755 /run/lock /run/user /var/lib/containers
mount -t tmpfs -o mode=0755 own /var/lib/containers
mkdir -m 0700 /run/user/%(user)d
chown %(user)d:%(user)d /run/user/%(user)d
"""
PURE = """
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || {
	umount -l /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
}
"""
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]


class Machine:
    """Runs commands and a gpiovirtd in mounts of its own.

    Debian 12's crun takes no mixture of cgroups 1 and 2, and its runc needs what there is.
    """

    def __init__(self, folder: Path, installation: Installation) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name, where in SCRIPTS.items():
            module, _, function = where.partition(":")
            script = self.bin / name
            script.write_text(
                f"#!{installation.python} -E\nimport sys\n\n"
                f"sys.path.insert(0, {str(installation.folder)!r})\n"
                f"from gpiovirt.{module} import {function}\n\nsys.exit({function}())\n"
            )
            script.chmod(0o755)
        self.hooks = folder / "hooks.d"
        self.hooks.mkdir()
        hook = {
            "version": "1.0.0",
            "hook": {"path": str(self.bin / "gpiovirt-oci-hook")},
            "when": {"always": True},
            "stages": ["precreate"],
        }
        (self.hooks / "gpiovirt.json").write_text(json.dumps(hook))
        self.environment = {
            "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "HOME": str(folder / "home-0"),
            "PYTHONPATH": str(installation.folder),
        }
        self.holder = _hold(SETUP % {"user": USER})
        self.pure = _hold(PURE, "nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt")
        for user in (0, USER):
            home = folder / f"home-{user}"
            home.mkdir()
            os.chown(home, user, user)
        # a pod has a cgroup: of those that are here
        kind = subprocess.check_output(["stat", "-f", "-c", "%T", "/sys/fs/cgroup"], text=True)
        self.kube_runtime = "crun" if kind.strip() == "cgroup2fs" else "runc"
        self.log = folder / "log"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.bundles: list[Bundle] = []
        """Those that run"""
        self._others: list[subprocess.Popen[Any]] = []

    @property
    def root(self) -> str:
        """Its files, from outside."""
        return f"/proc/{self.holder.pid}/root"

    def command(self, *argv: str | Path, user: int = 0) -> list[str]:
        """What runs it there."""
        holder = self.pure if Path(argv[0]).name in ("crun", "gpiovirt-crun", "podman") else self.holder
        within = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", f"--wdns={self.folder}"]
        if user:
            within += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "env"]
            within += [f"HOME={self.folder}/home-{user}", f"XDG_RUNTIME_DIR=/run/user/{user}"]
        return [*within, *map(str, argv)]

    def run(
        self, *argv: str | Path, user: int = 0, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        options = {"timeout": 60, "env": self.environment, "capture_output": True, **options}
        done = subprocess.run(self.command(*argv, user=user), text=True, check=False, **options)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}{self.log_text()}"
        return done

    def start(self, *argv: str | Path, user: int = 0, **options: Any) -> subprocess.Popen[str]:
        """Start a program, which ends with the machine."""
        options = {"env": self.environment, "text": True, **options}
        process = subprocess.Popen(self.command(*argv, user=user), **options)
        self._others.append(process)
        return process

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def start_daemon(self, *arguments: str) -> None:
        ready = self.log_text().count("ready:")
        options = ["--no-config", "--no-files", "--no-api", "--state", str(self.folder / "state")]
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                self.command(self.bin / "gpiovirtd", *options, *arguments),
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: self.log_text().count("ready:") > ready)

    def stop_daemon(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.daemon
        self.daemon.send_signal(number)
        self.daemon.wait(20)

    def gpiovirt(self, *arguments: str, **options: Any) -> str:
        return str(self.run(self.bin / "gpiovirt", *arguments, **options).stdout)

    def podman(self, *arguments: str | Path, user: int = 0, hook: bool = True, **options: Any) -> Any:
        """podman, to which a container needs no cgroup: cgroups are another's here."""
        run = ["podman", "--runtime", "crun", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        run += ["--hooks-dir", str(self.hooks)] if hook else []
        if arguments[0] in ("run", "create"):
            own = ["--network", "none", "--cgroups", "disabled", *LIMITS]
            arguments = (arguments[0], *own, *arguments[1:])
        return self.run(*run, *arguments, user=user, **options)

    def close(self) -> None:
        if self.daemon and self.daemon.poll() is None:
            self.stop_daemon(signal.SIGINT)
        for bundle in list(self.bundles):
            bundle.kill()
        pause = Path(f"{self.root}/run/user/{USER}/libpod/tmp/pause.pid")
        with suppress(OSError, ValueError):  # which keeps the namespaces of a rootless podman
            os.kill(int(pause.read_text()), signal.SIGKILL)
        for process in self._others:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        for holder in (self.pure, self.holder):
            holder.kill()
            holder.communicate()
        wait_for(lambda: not _processes_of(USER))  # or nobody could remove the user


class Bundle:
    """A container of an OCI runtime: `edit` is given its configuration."""

    def __init__(
        self,
        machine: Machine,
        runtime: str,
        root: Path,
        name: str,
        chips: Sequence[str],
        args: Sequence[str],
        edit: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> None:
        self.machine = machine
        self.runtime = runtime
        self.name = name
        self.folder = machine.folder / f"bundle-{name}"
        self.folder.mkdir()
        config = configuration(str(root), args)
        edit(config)
        (self.folder / "config.json").write_text(json.dumps(config))
        if chips:
            options = [word for chip in chips for word in ("--chip", chip)]
            machine.gpiovirt("oci", "edit", *options, str(self.folder))

    def config(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "config.json").read_text()))

    def run(self, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.machine.run(self.runtime, "run", "--bundle", self.folder, self.name, **options)

    def start(self) -> None:
        self.process = self.machine.start(self.runtime, "run", "--bundle", self.folder, self.name)
        self.machine.bundles.append(self)

    def kill(self) -> None:
        """SIGKILL; the runtime's own process ends with the container."""
        self.machine.bundles.remove(self)
        self.machine.run(self.runtime, "kill", self.name, "KILL", check=False)
        self.process.wait(20)

    def exec(self, *arguments: str, **options: Any) -> str:
        return str(self.machine.run(self.runtime, "exec", *arguments, **options).stdout)


def give_subordinate_ids(name: str) -> None:
    """As useradd does where /etc/subuid is there already; userdel takes them back."""
    for path in map(Path, ("/etc/subuid", "/etc/subgid")):
        text = path.read_text() if path.exists() else ""
        if f"{name}:" not in text:
            path.write_text(f"{text}{name}:231072:65536\n")


def _processes_of(user: int) -> list[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if f"\nUid:\t{user}\t" in status.read_text():
                found.append(status.parent.name)
    return found


def _hold(script: str, *within: str) -> subprocess.Popen[bytes]:
    """A process in mounts of its own, which are as the script has made them."""
    holder = subprocess.Popen(
        [*within, "unshare", "--mount", "sh", "-c", f"set -e\n{script}\necho\nexec sleep 10000"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    assert holder.stdout.readline(), "the machine cannot be made"
    return holder


def wait_for(condition: Callable[[], object], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never comes true"
        time.sleep(0.01)
