# SPDX-License-Identifier: MIT
"""What gpiovirtd says of its chips, built in one place."""

from __future__ import annotations

from gpiovirt.daemon.chip import KeptChip
from gpiovirt.daemon.told import LineUse, Status
from gpiovirt.protocols.control.answers import ChipDescription, ChipDetails, ChipState, LineState
from gpiovirt.virtual.options import format_options

__all__ = ["chip_description", "chip_details", "chip_state"]

_LINES_OF_ANSWER = 256  # with names and options as long as they can be, a quarter of a megabyte


def chip_state(chip: KeptChip) -> ChipState:
    """The chip as it is now."""
    record, definition = chip.record, chip.record.definition
    return ChipState(
        name=record.name,
        definition=definition.lines,
        num_lines=definition.num_lines,
        uid=definition.uid,
        gid=definition.gid,
        mode=definition.mode,
        state=chip.state,
        trouble=chip.trouble,
        permanent=record.permanent,
        origin=record.origin,
        driver=record.driver,
        vm=chip.vm_path,
        poll_us=definition.poll_us,
        device=chip.device_path,
        worker=chip.handle.pid,
        restarts=chip.handle.restarts,
        creator=record.creator[0] if record.creator else None,
    )


def chip_description(chip: KeptChip) -> ChipDescription:
    """The chip as it is to be."""
    definition = chip.record.definition
    return ChipDescription(
        chip_state(chip), definition.texts(), definition.rules.raw(), tuple(line.name for line in chip.lines)
    )


def chip_details(chip: KeptChip, status: Status | None, first: int = 0) -> ChipDetails:
    """The chip and some of its lines; without its worker's `status`, as far as they are known here."""
    names, held = chip.names(), set(chip.held())
    options = list(map(format_options, chip.options()))
    known = (
        LineUse("output" if line.is_output else "input", "", offset in held, None, "")
        for offset, line in enumerate(chip.lines)
    )
    uses = status.lines if status else tuple(known)
    page = slice(first, first + _LINES_OF_ANSWER)
    lines = [
        LineState(offset, names[offset], str(line.address), line.file is not None, *use, options[offset])
        for offset, (line, use) in list(enumerate(zip(chip.lines, uses, strict=True)))[page]
    ]
    consumers, vm = (status.consumers, status.vm) if status else ((), None)
    texts = chip.record.definition.texts()
    if chip.lines:
        texts = {str(line.offset): line.options for line in lines if line.options}
    rules = chip.record.definition.rules.raw()
    states = status.rules if status else ()
    return ChipDetails(chip_state(chip), texts, rules, tuple(lines), consumers, vm, states)
