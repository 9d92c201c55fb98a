# SPDX-License-Identifier: MIT
"""From the chips that a daemon has to those that files describe: what differs, and what is to be done.

Chips that were made at run time are nobody's business here, unless a file has one's name.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import unified_diff
from typing import Any, NamedTuple

from gpiovirt.configuration.files import Configuration, Entry, parse_file
from gpiovirt.configuration.model import Chip, InvalidChipError, chip_of
from gpiovirt.control.access import group_name, user_name
from gpiovirt.control.client import Client, RefusedError
from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.virtual.definition import Definition

__all__ = ["Result", "Step", "execute", "is_described", "make_plan", "origin_of"]

_MAY_DEPEND = (errno.EBUSY, errno.ENODEV, errno.ENOENT, errno.ERANGE)  # on what another step does

_DONE = {"new": "made", "change": "changed", "own": "changed", "save": "saved", "delete": "deleted"}


class Step(NamedTuple):
    """What is to be done to one chip: `do`, of the control protocol."""

    do: str
    name: str
    file: str
    arguments: Mapping[str, Any]
    before: str
    after: str
    chip: Chip | None = None

    @property
    def done(self) -> str:
        """In a word: made, changed, deleted, or saved as it is."""
        return _DONE[self.do]

    def diff(self) -> str:
        """What differs, as diff -u has it."""
        lines = unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            f"gpiovirtd/{self.name}" if self.before else os.devnull,
            self.file if self.after else os.devnull,
            n=100,
        )
        return "".join(lines)


class Result(NamedTuple):
    """What became of a step: an empty `problem` is success; the chip may wait for lines."""

    step: Step
    problem: str
    waits_for: str = ""


def origin_of(path: str) -> str:
    """What a chip's record says of the file that describes it."""
    return f"{os.path.realpath(os.path.dirname(path))}/{os.path.basename(path)}"


def make_plan(client: Client, configuration: Configuration, directory: str) -> list[Step]:
    """What to do, deletions first; only chips that came from `directory` are deleted."""
    default = client.call("state")["default"]
    present: dict[str, Mapping[str, Any]] = {}
    for chip in client.chips():
        with suppress(RefusedError):  # it was deleted meanwhile
            present[chip["name"]] = client.call("describe", name=chip["name"])
    steps = [_deletion(chip) for chip in present.values() if _is_orphan(chip, configuration, directory)]
    for name, entry in configuration.entries.items():
        steps += _steps(entry, present.get(name), default)
    return steps


def is_described(client: Client, path: str, shown: Mapping[str, Any]) -> bool:
    """Whether a file describes this chip as it is."""
    try:
        entry = parse_file(path)
        steps = list(_steps(entry, shown, client.call("state")["default"]))
    except InvalidChipError:
        return False
    return entry.chip.name == shown["name"] and all(step.do == "save" for step in steps)


def _is_orphan(chip: Mapping[str, Any], configuration: Configuration, directory: str) -> bool:
    origin = chip["origin"]
    return (
        bool(origin)
        and os.path.dirname(origin) == os.path.realpath(directory)
        and chip["name"] not in configuration.entries
    )


def _deletion(shown: Mapping[str, Any]) -> Step:
    name = shown["name"]
    return Step("delete", name, os.path.basename(shown["origin"]), {"name": name}, _present(shown), "")


def _steps(entry: Entry, shown: Mapping[str, Any] | None, default: Mapping[str, int]) -> Iterator[Step]:
    chip = entry.chip
    wanted = chip.arguments()
    for key in ("uid", "gid"):
        if wanted[key] < 0:
            wanted[key] = default[key]
    origin = origin_of(entry.path)
    wanted.update(permanent=True, origin=origin)
    after = _text(_owned(chip, wanted), origin)
    if shown is None:
        yield Step("new", chip.name, entry.file, wanted, "", after, chip)
        return
    same_use = _definition(wanted).may_be(_definition({**shown, "vm": shown["vm"] is not None}))
    same_access = all(shown[key] == wanted[key] for key in ("uid", "gid", "mode"))
    if same_use and same_access and shown["permanent"] and shown["origin"] == origin:
        return
    do = "change" if not same_use else "save" if same_access else "own"
    yield Step(do, chip.name, entry.file, wanted, _present(shown), after, chip)


def _definition(told: Mapping[str, Any]) -> Definition:
    return Definition.parse(
        told["name"], told["definition"], told["options"], vm=told["vm"], poll_us=told["poll_us"]
    )


def _owned(chip: Chip, wanted: Mapping[str, Any]) -> Chip:
    return chip.model_copy(
        update={"owner": user_name(wanted["uid"]), "group": group_name(wanted["gid"])},
    )


def _present(shown: Mapping[str, Any]) -> str:
    """The description of a chip that is there."""
    try:
        return _text(chip_of(shown), shown["origin"] if shown["permanent"] else "", shown["creator"])
    except UsageError as error:
        return f"# {error}\n"


def _text(chip: Chip, origin: str, creator: int | None = None) -> str:
    """A description to be compared by people: each line apart, every key of the chip there."""
    kept = (
        f"ends with process {creator}" if creator else f"described in {origin}" if origin else "until reboot"
    )
    rows = [
        f"# {kept}",
        f"owner = {chip.owner}",
        f"group = {chip.group}",
        f"mode = {chip.mode}",
        f"vm = {'true' if chip.vm else 'false'}",
        f"poll_us = {chip.poll_us}",
    ]
    options = chip.options()
    for offset, line in enumerate(chip.lines_of()):
        said = options.get(str(offset), "")
        rows.append(f"line {line} {said}".rstrip())
    return "".join(f"{row}\n" for row in rows)


def execute(
    client: Client, steps: Sequence[Step], may_wait: bool = False, force: bool = False
) -> Iterator[Result]:
    """Do it, and tell what came of each step; one's failure is not another's.

    A step that may have failed for want of another is tried again after those that succeed; changes that
    want lines of each other are made in one. New chips `may_wait` for lines that are not there then.
    """
    pending = list(steps)
    while pending:
        refused: list[tuple[Step, GpiovirtError]] = []
        for step in pending:
            try:
                _do(client, step, force)
            except RefusedError as error:
                refused.append((step, error))
            else:
                yield Result(step, "")
        again = [step for step, error in refused if error.errno in _MAY_DEPEND]
        if len(refused) == len(pending):
            together = [step for step in again if step.do == "change"]
            again = []
            if _do_together(client, together, force):
                refused = [(step, error) for step, error in refused if step not in together]
                again = [step for step, _ in refused]
                for step in together:
                    yield Result(step, "")
        for step, why in refused:
            if step not in again:
                waiting = _leave_waiting(client, step) if may_wait else None
                yield waiting or Result(step, _problem(step, why))
        pending = again


def _do_together(client: Client, steps: Sequence[Step], force: bool) -> bool:
    """Whether several chips could be changed in one."""
    if len(steps) < 2:
        return False
    try:
        client.call("change-all", changes=[dict(step.arguments) for step in steps], force=force)
    except RefusedError:
        return False
    return True


def _leave_waiting(client: Client, step: Step) -> Result | None:
    """Have a chip that waits for its lines; None if that is of no use."""
    if step.do != "new":
        return None
    try:
        chip = client.call("new", **step.arguments, wait=True)
    except RefusedError:
        return None
    return Result(step, "", chip["trouble"])


def _do(client: Client, step: Step, force: bool) -> None:
    arguments = step.arguments
    if step.do != "own":
        client.call(step.do, **arguments, **({"force": True} if force and step.do != "save" else {}))
        return
    client.call("own", **{key: arguments[key] for key in ("name", "uid", "gid", "mode")})
    client.call("save", **{key: arguments[key] for key in ("name", "permanent", "origin")})


def _problem(step: Step, error: GpiovirtError) -> str:
    """The daemon's complaint, with the key that caused it."""
    if step.chip is None:
        return f"{step.file}: it is gone, but its chip {step.name} cannot be deleted: {error}"
    key = "" if error.line is None else f"{step.chip.lines_of()[error.line].key}: "
    return f"{step.file}: {key}{error}"
