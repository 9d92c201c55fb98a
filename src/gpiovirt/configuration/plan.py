# SPDX-License-Identifier: MIT
"""From the chips that a daemon has to those that files describe: what differs, and what is to be done.

Chips that were made at run time are nobody's business here, unless a file has one's name.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import unified_diff
from typing import NamedTuple

from gpiovirt.configuration.files import Configuration, Entry, parse_file
from gpiovirt.configuration.model import Chip, InvalidChipError, chip_of
from gpiovirt.control.access import group_name, user_name
from gpiovirt.control.client import Client
from gpiovirt.errors import GpiovirtError, UsageError
from gpiovirt.protocols.control.answers import ChipDescription, ChipState, Ownership, RefusedError
from gpiovirt.protocols.control.requests import Change, ChangeAll, Delete, Describe, New, Own, Save, State
from gpiovirt.virtual.definition import Definition

__all__ = ["Result", "Step", "execute", "is_described", "make_plan", "origin_of"]

_MAY_DEPEND = (errno.EBUSY, errno.ENODEV, errno.ENOENT, errno.ERANGE)  # on what another step does

_DONE: Mapping[type, str] = {New: "made", Change: "changed", Own: "changed", Save: "saved", Delete: "deleted"}


class Step(NamedTuple):
    """What is to be asked for, of one chip; the first says what is to be done."""

    requests: tuple[New | Change | Own | Save | Delete, ...]
    name: str
    file: str
    before: str
    after: str
    chip: Chip | None = None

    @property
    def done(self) -> str:
        """In a word: made, changed, deleted, or saved as it is."""
        return _DONE[type(self.requests[0])]

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
    default = client.ask(State()).default
    present: dict[str, ChipDescription] = {}
    for chip in client.chips():
        with suppress(RefusedError):  # it was deleted meanwhile
            present[chip.name] = client.ask(Describe(chip.name))
    steps = [_deletion(told) for told in present.values() if _is_orphan(told.chip, configuration, directory)]
    for name, entry in configuration.entries.items():
        steps += _steps(entry, present.get(name), default)
    return steps


def is_described(client: Client, path: str, told: ChipDescription) -> bool:
    """Whether a file describes this chip as it is."""
    try:
        entry = parse_file(path)
        steps = list(_steps(entry, told, client.ask(State()).default))
    except InvalidChipError:
        return False
    return entry.chip.name == told.chip.name and all(isinstance(step.requests[0], Save) for step in steps)


def _is_orphan(chip: ChipState, configuration: Configuration, directory: str) -> bool:
    return (
        bool(chip.origin)
        and os.path.dirname(chip.origin) == os.path.realpath(directory)
        and chip.name not in configuration.entries
    )


def _deletion(told: ChipDescription) -> Step:
    name = told.chip.name
    return Step((Delete(name),), name, os.path.basename(told.chip.origin), _present(told), "")


def _steps(entry: Entry, told: ChipDescription | None, default: Ownership) -> Iterator[Step]:
    chip, origin = entry.chip, origin_of(entry.path)
    wanted = chip.wanted()._replace(permanent=True, origin=origin)
    wanted = wanted._replace(
        uid=default.uid if wanted.uid < 0 else wanted.uid, gid=default.gid if wanted.gid < 0 else wanted.gid
    )
    after = _text(_owned(chip, wanted), origin)
    if told is None:
        yield Step((wanted,), chip.name, entry.file, "", after, chip)
        return
    there = told.chip
    access = (wanted.uid, wanted.gid, wanted.mode)
    save = Save(chip.name, origin=origin)
    requests: tuple[Change | Own | Save, ...]
    if not _definition(wanted, told.names).may_be(_definition(_as_wanted(told), told.names)):
        requests = (wanted.as_change()._replace(permanent=True, origin=origin),)
    elif (there.uid, there.gid, there.mode) != access:
        requests = (Own(chip.name, *access), save)
    elif there.permanent and there.origin == origin:
        return
    else:
        requests = (save,)
    yield Step(requests, chip.name, entry.file, _present(told), after, chip)


def _as_wanted(told: ChipDescription) -> New:
    chip = told.chip
    return New(chip.definition, chip.name, told.options, told.rules, chip.vm is not None, chip.poll_us)


def _definition(wanted: New, names: Sequence[str]) -> Definition:
    """What is wanted, with lines by offset if they have these names."""
    definition = Definition.parse(
        wanted.name, wanted.definition, wanted.options, wanted.rules, vm=wanted.vm, poll_us=wanted.poll_us
    )
    with suppress(UsageError):  # it will be told by whoever makes it
        return definition.settled(names) if len(names) == definition.num_lines else definition
    return definition


def _owned(chip: Chip, wanted: New) -> Chip:
    return chip.model_copy(update={"owner": user_name(wanted.uid), "group": group_name(wanted.gid)})


def _present(told: ChipDescription) -> str:
    """The description of a chip that is there."""
    chip = told.chip
    try:
        return _text(chip_of(*told), chip.origin if chip.permanent else "", chip.creator)
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
    for key, rule in chip.rules():
        rows.append(f"{key} {json.dumps(rule, ensure_ascii=False)}")
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
            together = [step for step in again if isinstance(step.requests[0], Change)]
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
    changes = [request for step in steps for request in step.requests if isinstance(request, Change)]
    try:
        client.ask(ChangeAll(tuple(changes), force))
    except RefusedError:
        return False
    return True


def _leave_waiting(client: Client, step: Step) -> Result | None:
    """Have a chip that waits for its lines; None if that is of no use."""
    request = step.requests[0]
    if not isinstance(request, New):
        return None
    try:
        chip = client.ask(request._replace(wait=True))
    except RefusedError:
        return None
    return Result(step, "", chip.trouble)


def _do(client: Client, step: Step, force: bool) -> None:
    for request in step.requests:
        client.ask(request._replace(force=force) if isinstance(request, Change | Delete) else request)


def _problem(step: Step, error: GpiovirtError) -> str:
    """The daemon's complaint, with the key that caused it."""
    if step.chip is None:
        return f"{step.file}: it is gone, but its chip {step.name} cannot be deleted: {error}"
    key = "" if error.line is None else f"{step.chip.lines_of()[error.line].key}: "
    return f"{step.file}: {key}{error}"
