# SPDX-License-Identifier: MIT
"""Parts of the page's server: who may, what is told to slow pages, what is kept, what a picture needs."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from array import array
from pathlib import Path

import pytest

from gpiovirt.errors import HostError, UsageError
from gpiovirt.host.tcp_peer import uid_of_peer
from gpiovirt.waveform.thin import UNKNOWN, Piece, Trace, thin
from gpiovirt.web.access import Rights, Sessions, Tokens
from gpiovirt.web.live import Hub
from gpiovirt.web.traces import ALL_MAX, CHANGES_MAX, Traces


def trace(*changes: tuple[int, int]) -> Trace:
    return Trace(array("q", [at for at, _ in changes]), array("B", [level for _, level in changes]))


class TestPictures:
    def test_a_change_that_is_alone_is_as_it_was_and_others_are_one(self) -> None:
        seen = thin(trace((5, 1), (110, 0), (120, 1), (130, 0), (500, 1)), 0, 1000, 10)
        assert list(seen) == [Piece(5, 5, 1), Piece(110, 130, 0), Piece(500, 500, 1)]

    def test_there_are_no_more_than_columns_and_the_last_level_of_each_is_true(self) -> None:
        source = random.Random(3)
        times = sorted(source.sample(range(100_000), 5000))
        line = trace(*((at, source.randrange(2)) for at in times))
        told = list(thin(line, 0, 100_000, 200))
        assert len(told) <= 201
        for end in range(500, 100_001, 500):
            assert [piece.level for piece in told if piece.end_ns < end][-1] == line.level_at(end - 1)

    def test_before_the_first_change_nothing_is_known(self) -> None:
        assert trace((5, 1)).level_at(4) == UNKNOWN

    def test_what_is_kept_of_a_line_does_not_grow_without_end(self) -> None:
        traces = Traces()
        traces.begin("a", 0, 0, 0)
        for number in range(CHANGES_MAX + 10):
            traces.add("a", 0, number, number & 1)
        kept = traces.of_chip("a")[0]
        assert CHANGES_MAX // 2 < len(kept.times_ns) < CHANGES_MAX
        assert kept.level_at(0) == UNKNOWN

    def test_nor_does_what_is_kept_of_all_lines(self) -> None:
        traces = Traces()
        lines = 2 * ALL_MAX // CHANGES_MAX
        for offset in range(lines):
            traces.begin("a", offset, 0, 0)
        for number in range(CHANGES_MAX - 10):
            for offset in range(lines):
                traces.add("a", offset, number, number & 1)
        kept = traces.of_chip("a").values()
        assert ALL_MAX // 2 < sum(len(trace.times_ns) for trace in kept) <= ALL_MAX

    def test_after_a_loss_nothing_is_known_until_the_next_change(self) -> None:
        traces = Traces()
        traces.begin("a", 0, 0, 1)
        traces.lose(10)
        traces.add("a", 0, 20, 0)
        kept = traces.of_chip("a")[0]
        assert [kept.level_at(at) for at in (9, 10, 19, 20)] == [1, UNKNOWN, UNKNOWN, 0]


class TestTokens:
    @pytest.fixture
    def tokens(self, tmp_path: Path) -> Tokens:
        return Tokens(str(tmp_path / "of/tokens.json"))

    def test_a_token_is_found_until_it_is_revoked(self, tokens: Tokens) -> None:
        made = tokens.make(Rights(frozenset({"plc"}), manage=False), 0)
        kept = tokens.find(made)
        assert kept is not None and kept.rights == Rights(frozenset({"plc"}), True, False)
        tokens.revoke([kept.id])
        assert tokens.find(made) is None and not tokens.is_valid(kept)

    def test_who_reads_the_file_notices_what_others_write(self, tokens: Tokens, tmp_path: Path) -> None:
        other = Tokens(str(tmp_path / "of/tokens.json"))
        made = tokens.make(Rights(), 0)
        assert other.find(made) is not None
        tokens.revoke([tokens.all()[0].id])
        assert other.find(made) is None

    def test_one_that_is_not_there_cannot_be_revoked(self, tokens: Tokens) -> None:
        with pytest.raises(UsageError, match="no token 'x'"):
            tokens.revoke(["x"])

    @pytest.mark.parametrize("content", ["", "{", "[1]", '[{"id": 1}]', "[" * 100_000, "null"])
    def test_a_file_that_is_none_lets_nobody_in(self, tokens: Tokens, tmp_path: Path, content: str) -> None:
        (tmp_path / "of").mkdir()
        (tmp_path / "of/tokens.json").write_text(content)
        with pytest.raises(HostError, match="not a file of tokens"):
            tokens.find("gpv_x")

    def test_sessions_are_bounded_and_the_idle_ones_go_first(self, tokens: Tokens) -> None:
        sessions = Sessions(None, tokens)
        made = tokens.make(Rights(), 0)
        looks = sessions.log_in(made)
        assert looks is not None
        looks.streams = 1
        for _ in range(200):
            assert sessions.log_in(made) is not None
        assert sessions.find(looks.cookie, looks.key) is looks

    def test_strange_secrets_are_only_wrong(self, tokens: Tokens) -> None:
        sessions = Sessions("link", tokens)
        for strange in ("\ud800", "", "é", "x" * 10_000):
            assert sessions.log_in(strange) is None
            assert sessions.find(strange, strange) is None


def heard(*rights: Rights, told: int = 1) -> list[bytes]:
    """What subscribers with these rights hear of changes of the chip plc, if they read only then."""

    async def run() -> list[bytes]:
        hub = Hub(asyncio.get_running_loop())
        subscribers = [hub.subscribe(each) for each in rights]
        for number in range(told):
            hub.note([("chip:plc", "plc", 0, number, 1)] * 1000)
            await asyncio.sleep(0.03)
        hub.tell("end", {})
        await asyncio.sleep(0.05)
        return [await each.next() for each in subscribers]

    return asyncio.run(run())


class TestHub:
    def test_who_may_not_see_a_chip_hears_nothing_of_it(self) -> None:
        all_chips, others = heard(Rights(), Rights(frozenset({"door"})))
        assert b"plc" in all_chips
        assert others == b"event: end\ndata: {}\n\n"

    def test_a_page_that_does_not_read_is_told_that_it_has_lost_something(self) -> None:
        (told,) = heard(Rights(), told=150)
        assert told.startswith(b"event: lost\n") and told.endswith(b"event: end\ndata: {}\n\n")
        assert len(told) < 1 << 20


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_kernel_says_whose_a_connection_is(family: int, address: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]) as client, listener.accept()[0] as served:
            assert uid_of_peer(served) == uid_of_peer(client) == os.getuid()
        with socket.create_connection(listener.getsockname()[:2]) as client, listener.accept()[0] as served:
            client.close()  # which leaves a socket without an owner, and that is not root's
            with pytest.raises(HostError, match="nobody has that connection"):
                uid_of_peer(served)
