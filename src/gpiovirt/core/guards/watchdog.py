# SPDX-License-Identifier: MIT
"""While outputs are held a line must toggle: if it does not, all are made safe until the chip is re-armed."""

from collections.abc import Container, Iterable

from gpiovirt.core.guards.rule import Change, RefusedChangeError, Rule

__all__ = ["Watchdog"]


class Watchdog(Rule):
    """Line `offset` toggles at least every `timeout_us`; it is an input, or else an output of the consumer's.

    With `by_consumer` the next toggle re-arms it, else somebody who manages the chip does.
    """

    judges_levels: Container[int] = ()  # only when it has tripped, and then all are asked

    def __init__(
        self,
        offset: int,
        name: str,
        outputs: Iterable[int],
        timeout_us: int,
        by_consumer: bool,
        is_input: bool,
    ) -> None:
        self.offset = offset
        self.timeout_ns = timeout_us * 1000
        self.by_consumer = by_consumer
        self.senses = frozenset([offset] if is_input else [])
        self.offsets = frozenset(outputs) | ({offset} - self.senses)
        self.outputs = self.offsets - {offset}
        who = f"{name} toggles again" if by_consumer else "an operator re-arms it"
        self.text = f"{name} toggles within {timeout_us / 1000:g} ms, else all is made safe until {who}"

    def judge(self, change: Change) -> None:
        if not change.lines.tripped[0] or (self.by_consumer and self.is_beat(change)):
            return
        for offset, level in change.levels.items():
            if offset in self.outputs and level is not None and level != change.lines.levels[offset]:
                raise RefusedChangeError(self, offset, f"the watchdog has tripped: {self.text}")

    def is_beat(self, change: Change) -> bool:
        """Whether the change toggles the line."""
        level = change.levels.get(self.offset)
        return level is not None and level != change.lines.levels[self.offset]
