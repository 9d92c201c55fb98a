# SPDX-License-Identifier: MIT
"""A chip's description survives being written to a file, and being the daemon's for a while."""

from __future__ import annotations

import os
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpiovirt.configuration.files import format_chip
from gpiovirt.configuration.model import Chip, chip_of, parse_chip
from gpiovirt.errors import UsageError
from gpiovirt.protocols.control.answers import ChipState
from gpiovirt.virtual import grammar
from gpiovirt.virtual.grammar import ChipLines, NamedLine

# what the grammar can say: anything but a double quote, and nothing that stands for a number
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='"'), min_size=1, max_size=8)
LINE_NAMES = st.text(
    st.characters(categories=["L", "N", "P", "S"], max_codepoint=0x24F, exclude_characters=","),
    min_size=1,
    max_size=15,
)
HOWS = st.lists(
    st.sampled_from(["pull-up", "pull-down", "open-drain", "active-low", "debounce=5ms"]),
    min_size=1,
    max_size=3,
).map(",".join)
SAFES = st.sampled_from(["low", "high", "input"])
OPTIONS = st.tuples(
    st.one_of(st.just(""), HOWS),
    st.one_of(st.just(""), SAFES.map("safe={}".format)),
    st.one_of(st.just(""), LINE_NAMES.map("name={}".format)),
).map(", ".join)
OFFSETS = st.integers(0, 65534)

ITEMS = st.one_of(
    NAMES.map(NamedLine), st.builds(ChipLines, NAMES, st.lists(OFFSETS, min_size=1, max_size=4).map(tuple))
)
DEFINITIONS = st.lists(ITEMS, min_size=1, max_size=3).map(grammar.format_definition)
TABLES = st.one_of(
    st.fixed_dictionaries({"name": NAMES}, optional={"options": OPTIONS}),
    st.fixed_dictionaries({"chip": NAMES, "offset": OFFSETS}, optional={"options": OPTIONS}),
)
RAW = st.fixed_dictionaries(
    {"lines": st.one_of(DEFINITIONS, st.lists(st.one_of(DEFINITIONS, TABLES), min_size=1, max_size=5))},
    optional={
        "name": st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,30}", fullmatch=True),
        "owner": st.integers(0, 1 << 31).map(str),
        "group": st.integers(0, 1 << 31).map(str),
        "mode": st.integers(0, 0o777).map(lambda mode: f"{mode:o}"),
        "vm": st.booleans(),
        "poll_us": st.integers(0, 10_000),
    },
)


def described(raw: dict[str, Any]) -> Chip | None:
    """The chip, unless a line is in it twice."""
    try:
        return parse_chip(raw, "plc")
    except UsageError as error:
        assert "twice" in str(error)
        return None


@given(RAW)
def test_a_chip_written_to_a_file_is_the_same_chip_when_read(raw: dict[str, Any]) -> None:
    chip = described(raw)
    if chip is not None:
        for name in ("plc", "other"):
            assert parse_chip(tomllib.loads(format_chip(chip, name)), name) == chip


@given(RAW)
def test_a_chip_that_the_daemon_had_is_the_same_chip_when_described(raw: dict[str, Any]) -> None:
    chip = described(raw)
    if chip is None:
        return
    wanted = chip.wanted()
    wanted = wanted._replace(uid=max(wanted.uid, os.getuid()), gid=max(wanted.gid, os.getgid()))
    told = ChipState(
        name=wanted.name,
        definition=wanted.definition,
        num_lines=len(chip.lines_of()),
        uid=wanted.uid,
        gid=wanted.gid,
        mode=wanted.mode,
        state="live",
        trouble="",
        permanent=False,
        origin="",
        driver="",
        vm="/socket" if wanted.vm else None,
        poll_us=wanted.poll_us,
        device="/chip",
        worker=1,
        restarts=0,
        creator=None,
    )
    again = chip_of(told, wanted.options)
    assert again.wanted() == wanted._replace(definition=again.definition)
    assert [line.source for line in again.lines_of()] == [line.source for line in chip.lines_of()]
