# SPDX-License-Identifier: MIT
"""The command `gpiovirtd`."""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpiovirt.cli.chips import parse_sim, parse_wire
from gpiovirt.cli.main import new_parser, report
from gpiovirt.errors import UsageError

if TYPE_CHECKING:
    from gpiovirt.daemon.helpers import ConfigurationRun, HelperProcess, SocketActivatedHelper

__all__ = ["main", "parser"]

SYSFS = "/sys/bus/platform/drivers"

DESCRIPTION = (
    "keep virtual chips, a process each; they survive its restart, and are made and deleted while it runs"
)
EPILOG = """\
As root it serves the machine from /run/gpiovirt and /var/lib/gpiovirt; as another user, that user's own
chips from $XDG_RUNTIME_DIR/gpiovirt and ~/.local/state/gpiovirt. When it starts, it restores its chips and
applies the files in /etc/gpiovirt/chips.d; as another user, those in ~/.config/gpiovirt/chips.d.

SIGTERM ends gpiovirtd and leaves its chips: their workers go on serving, and the next gpiovirtd finds
them. SIGINT (Ctrl-C) ends both. SIGHUP re-executes it, as after an upgrade.

examples:
  gpiovirtd
  gpiovirtd --sim sim-a:8 --sim sim-b:DOOR,LAMP
  gpiovirt new plc 'sim-a 0 3, sim-b 0-1' --owner alice
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = new_parser("gpiovirtd", DESCRIPTION, EPILOG)
    made.add_argument("--run", metavar="DIR", help="directory for sockets")
    made.add_argument("--state", metavar="DIR", help="directory for the records of chips")
    made.add_argument(
        "--sim",
        metavar="LABEL:LINES",
        action="append",
        default=[],
        help="make a simulated chip to take lines from; LINES is their number, or their names: DOOR,,LAMP",
    )
    made.add_argument(
        "--wire", metavar="A:0=B:1", action="append", default=[], help="connect two simulated lines"
    )
    made.add_argument(
        "--sysfs",
        action="store_true",
        help="also show the control files in /sys/bus/platform/drivers/gpio-virt-agg (root only)",
    )
    config = made.add_mutually_exclusive_group()
    config.add_argument(
        "--config", metavar="DIR", help="directory of configuration files (default: /etc/gpiovirt/chips.d)"
    )
    config.add_argument("--no-config", action="store_true", help="read no configuration files")
    made.add_argument("--no-files", action="store_true", help="serve no control files")
    made.add_argument("--no-api", action="store_true", help="serve no HTTP API")
    made.add_argument(
        "--no-containers", action="store_true", help="serve no containers: another process does, or none"
    )
    made.add_argument("--no-record", action="store_true", help="do not record what happens to chips")
    made.add_argument(
        "--record-size",
        metavar="MB",
        type=int,
        default=1024,
        help="room for the record on disk; the oldest of it is then removed (default: 1024)",
    )
    made.add_argument(
        "--record-days", metavar="N", type=int, default=90, help="how long it is kept (default: 90)"
    )
    made.add_argument("-v", "--verbose", action="store_true", help="log more")
    return made


def main() -> int:
    """Entry point."""
    return report(_main)


def _main() -> int:
    options = parser().parse_args()
    import logging

    from gpiovirt.daemon.recorder import Settings
    from gpiovirt.daemon.service import Options, serve
    from gpiovirt.host.journal import start_logging

    start_logging("gpiovirtd", logging.DEBUG if options.verbose else logging.INFO)
    is_root = os.geteuid() == 0
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    own = os.environ.get("XDG_RUNTIME_DIR")
    run = options.run or os.environ.get("GPIOVIRT_RUNTIME_DIR")
    run = run or ("/run/gpiovirt" if is_root else own and f"{own}/gpiovirt")
    if not run:
        raise UsageError("XDG_RUNTIME_DIR is not set; name the directory for sockets with --run")
    run = os.path.abspath(run)
    uid, gid = _worker() if is_root else (os.getuid(), os.getgid())
    if options.sysfs and not is_root:
        raise UsageError("--sysfs: only root can mount there")
    if options.record_size < 1 or options.record_days < 1:
        raise UsageError("--record-size and --record-days: 1 or more")
    state = os.path.abspath(
        options.state
        or os.environ.get("GPIOVIRT_STATE_DIR")
        or ("/var/lib/gpiovirt" if is_root else f"{home}/gpiovirt")
    )
    return serve(
        Options(
            run=run,
            state=state,
            simulated=_simulated(options.sim),
            wires=[parse_wire(text) for text in options.wire],
            worker_uid=uid,
            worker_gid=gid,
            record=None
            if options.no_record
            else Settings(f"{state}/record", uid, gid, options.record_size, options.record_days),
            configuration=None if options.no_config else _configuration(options.config, run),
            helpers=[
                *([] if options.no_files else [_control_files(run, options.sysfs)]),
                *([] if options.no_api else [_api(run, uid, gid)]),
                *([] if options.no_containers else [_containers(run)]),
                *([] if options.no_record else [_log(run, f"{state}/record", uid, gid)]),
            ],
        )
    )


def _configuration(directory: str | None, run: str) -> ConfigurationRun:
    from gpiovirt.control import config_directory
    from gpiovirt.daemon.helpers import ConfigurationRun

    directory = os.path.abspath(directory or config_directory(os.getuid()))
    return ConfigurationRun(directory, ["gpiovirt", "apply", "--wait", "--config", directory], run)


def _control_files(run: str, sysfs: bool) -> HelperProcess:
    from gpiovirt.daemon.helpers import HelperProcess
    from gpiovirt.files.main import unmount
    from gpiovirt.host.mounts import is_mount_point

    directory = f"{run}/bus/platform/drivers"
    places = [directory, SYSFS] if sysfs else [directory]

    def serves() -> bool:
        shown = f"{SYSFS}/gpio-virt-agg" if sysfs else directory
        return is_mount_point(shown)

    return HelperProcess(
        "the process of the control files",
        "gpiovirt.files.main",
        [f"{run}/control", *places],
        serves,
        lambda: unmount(*places),
    )


def _api(run: str, uid: int, gid: int) -> SocketActivatedHelper:
    from gpiovirt.daemon.helpers import SocketActivatedHelper

    name = "the process of the HTTP API"
    path = f"{run}/api.sock"
    return SocketActivatedHelper(name, "gpiovirt.api.main", [f"{run}/control"], path, uid, gid)


def _containers(run: str) -> HelperProcess:
    from gpiovirt.daemon.helpers import SocketActivatedHelper

    name = "the process for containers"
    path = f"{run}/containers/listener"
    return SocketActivatedHelper(name, "gpiovirt.containers.main", [run], path, os.geteuid(), os.getegid())


def _log(run: str, directory: str, uid: int, gid: int) -> SocketActivatedHelper:
    from gpiovirt.daemon.helpers import SocketActivatedHelper

    name = "the process that answers `gpiovirt log`"
    arguments = [f"{run}/control", directory]
    return SocketActivatedHelper(name, "gpiovirt.recorder.server", arguments, f"{run}/record", uid, gid)


def _simulated(texts: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Chips of --sim, which are known by their labels."""
    chips = [parse_sim(text) for text in texts]
    labels = [label for label, _ in chips]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"the chip name {label!r} is in use; choose another")
    return chips


def _worker() -> tuple[int, int]:
    """The user that workers become: the one made for it, or nobody."""
    for name in ("gpiovirt", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return user.pw_uid, user.pw_gid
    return 65534, 65534


if __name__ == "__main__":
    sys.exit(main())
