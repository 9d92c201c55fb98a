# SPDX-License-Identifier: MIT
"""What the record says of levels for a picture: no more than it can show, and never another level."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

import pytest

from gpiovirt.core.record import What
from gpiovirt.errors import PeerError, UsageError
from gpiovirt.protocols.log import Ask, Span, decode_ask, decode_spans, encode_ask
from gpiovirt.recorder.query import Query
from gpiovirt.recorder.segments import Segments

OUTPUT_LOW, OUTPUT_HIGH, INPUT = 2, 3, 0
Row = tuple[int, What, int]


def store(folder: Path, rows: list[Row], offset: int = 0, chip: str = "plc") -> str:
    """A record of these (time, what, value)."""
    Segments(str(folder), 1000, 90).close()
    path = min(folder.glob("record-*.sqlite"))
    with sqlite3.connect(path) as connection:
        number = 1 + connection.execute("SELECT count(*) FROM line").fetchone()[0]
        connection.execute("INSERT INTO line VALUES (?, ?, ?, 'LAMP')", [number, chip, offset])
        connection.executemany(
            "INSERT INTO entry VALUES (?, ?, ?, ?, ?, 0, '')",
            ((number, at, seq, what, value) for seq, (at, what, value) in enumerate(rows, 1)),
        )
    connection.close()
    return str(folder)


def spans(
    folder: str, since: int, until: int, columns: int, seen: dict[str, int] | None = None
) -> list[Span]:
    return list(Query(folder, Ask("plc", (), since, until, columns=columns), seen).spans())


def test_a_change_that_is_alone_in_its_column_is_told_as_it_is(tmp_path: Path) -> None:
    folder = store(tmp_path, [(100, What.CONFIGURED, OUTPUT_HIGH), (500, What.SET, 0)])
    assert spans(folder, 0, 1000, 10) == [Span(0, 100, 100, 1), Span(0, 500, 500, 0)]


def test_many_changes_in_a_column_are_one_span_and_the_last_level_holds(tmp_path: Path) -> None:
    rows = [(110 + number, What.SET, number & 1) for number in range(60)]
    assert spans(store(tmp_path, rows), 0, 1000, 10) == [Span(0, 110, 169, 1)]


@pytest.mark.parametrize(
    ("rows", "level"),
    [
        ([(1, What.CONFIGURED, OUTPUT_LOW), (2, What.SET, 1), (300, What.RELEASED, 0)], 1),
        ([(1, What.CONFIGURED, OUTPUT_HIGH), (300, What.RELEASED, 0)], 1),
        ([(1, What.CONFIGURED, INPUT), (2, What.EDGE, 1), (300, What.RELEASED, 0)], None),
        ([(1, What.EDGE, 1), (300, What.MISSED, 0)], None),
        ([(1, What.EDGE, 1), (300, What.GONE, 0)], None),
        ([(1, What.EDGE, 1), (300, What.CONFIGURED, INPUT)], None),
    ],
)
def test_what_is_not_known_is_not_made_up(tmp_path: Path, rows: list[Row], level: int | None) -> None:
    assert spans(store(tmp_path, rows), 200, 1000, 10) == [Span(0, 300, 300, level)]


def test_at_the_end_of_each_column_the_level_is_the_true_one(tmp_path: Path) -> None:
    source = random.Random(7)
    times = sorted(source.sample(range(100_000), 3000))
    rows = [(at, What.SET, source.randrange(2)) for at in times]
    told = spans(store(tmp_path, rows), 0, 100_000, 250)
    assert 200 < len(told) <= 251
    for column_end in range(400, 100_001, 400):
        true = [value for at, _, value in rows if at < column_end][-1]
        assert [span.level for span in told if span.end_ns < column_end][-1] == true


def test_a_million_changes_are_told_in_less_than_a_second(tmp_path: Path) -> None:
    folder = store(tmp_path, [(number * 3600, What.SET, number & 1) for number in range(1_000_000)])
    began = time.monotonic()
    told = spans(folder, 0, 3600 * 1_000_000, 1200)
    assert time.monotonic() - began < 1
    assert len(told) == 1200


def test_nothing_is_told_from_before_the_chip_was_the_askers(tmp_path: Path) -> None:
    folder = store(tmp_path, [(100, What.SET, 1), (500, What.SET, 0)])
    store(tmp_path, [(300, What.SET, 1)], chip="secret")
    assert spans(folder, 0, 1000, 10, {"plc": 400}) == [Span(0, 500, 500, 0)]


@pytest.mark.parametrize("columns", [-1, 4097, True, "9", None])
def test_a_number_of_columns_is_a_number_up_to_what_a_screen_has(columns: object) -> None:
    body = {**encode_ask(Ask("plc", (), 0, 10)), "columns": columns}
    with pytest.raises(UsageError, match="columns"):
        decode_ask(body)


def test_columns_are_of_one_chip_and_of_a_time_that_ends() -> None:
    for ask in (Ask("", (), 0, 10, columns=4), Ask("plc", columns=4), Ask("plc", (), 9, 1, columns=4)):
        with pytest.raises(UsageError, match="of one chip"):
            decode_ask(encode_ask(ask))


@pytest.mark.parametrize("told", [[0, 1, 2], [0, 1, 2, 3], ["0", 1, 2, 1], [-2, 1, 2, 1], [1 << 16, 1, 2, 1]])
def test_a_span_of_no_line_breaks_the_protocol(told: object) -> None:
    with pytest.raises(PeerError):
        decode_spans([told])
