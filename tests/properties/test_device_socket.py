# SPDX-License-Identifier: MIT
"""Packets of the device socket: what is encoded comes back, and nothing else is taken."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpiovirt.errors import PeerError
from gpiovirt.protocols.gpiochip import Answer, wire
from gpiovirt.uapi import gpio as u

COMMANDS = sorted({value for name, value in vars(u).items() if name.endswith("_IOCTL")})
WRITES = 0x40000000


_names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=7)


@given(_names, st.text(max_size=200))
def test_the_name_of_an_open_comes_back_and_the_containers_that_it_is_for(name: str, container: str) -> None:
    came, about = wire.decode_open(wire.encode_open(name, container))
    assert came == name
    assert about.isprintable() and bool(about) is bool(container)
    if container.isprintable() and len(container.encode()) <= 160:
        assert about == container


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(COMMANDS),
    st.binary(min_size=600, max_size=600),
    st.booleans(),
    st.integers(0, wire.FILES_MAX),
)
def test_an_ioctl_comes_back(tag: int, cmd: int, raw: bytes, compat: bool, file: int) -> None:
    argument = raw[: u.ioc_size(cmd)]
    packet = wire.encode_ioctl(tag, cmd, argument, compat, file)
    assert len(packet) <= wire.PACKET_MAX
    assert wire.decode_ioctl(packet) == (tag, cmd, argument if cmd & WRITES else b"", compat, file)
    for wrong in (packet[:-1], packet + b"\0"):
        with pytest.raises(PeerError):
            wire.decode_ioctl(wrong)


@given(st.integers(0, 2**32 - 1), st.binary(max_size=600), st.integers(0, wire.FILES_MAX))
def test_an_answer_comes_back(tag: int, argument: bytes, file: int) -> None:
    fd_at = max(len(argument) - 4, 0)
    answer = Answer(0, argument or None, None, fd_at)
    assert wire.decode_answer(wire.encode_answer(tag, answer, file)) == (tag, answer, file)


@given(st.integers(0, wire.FILES_MAX))
def test_a_close_and_a_hang_up_say_of_which_file(file: int) -> None:
    assert wire.decode_ioctl(wire.encode_close(file))[1:] == (0, b"", False, file)
    assert wire.decode_answer(wire.encode_hang_up(file)) == (wire.HANG_UP_TAG, Answer(0), file)


@given(st.integers(0, 2**32 - 1), st.integers(1, 133), st.text(max_size=2000))
def test_a_refusal_comes_back_with_its_reason(tag: int, errno: int, why: str) -> None:
    packet = wire.encode_answer(tag, Answer(errno, why=why))
    assert len(packet) <= wire.PACKET_MAX
    came, answer, file = wire.decode_answer(packet)
    assert not file
    assert (came, answer.errno, answer.reply) == (tag, errno, None)
    assert answer.why.isprintable() or not answer.why
    if why.isprintable() and len(why.encode()) < 1000:
        assert answer.why == why


def test_another_version_is_told_from_another_protocol() -> None:
    packet = bytearray(wire.encode_open("gpiochip0"))
    packet[8] += 1
    with pytest.raises(wire.VersionError):
        wire.decode_open(bytes(packet))


@given(st.binary(max_size=64))
def test_anything_else_is_refused_and_nothing_worse(packet: bytes) -> None:
    for decode in (wire.decode_open, wire.decode_ioctl, wire.decode_answer):
        with contextlib.suppress(PeerError):
            decode(packet)


@pytest.mark.parametrize("cut", range(12 + 9))
def test_an_open_that_is_cut_short_is_refused_or_shorter(cut: int) -> None:
    packet = wire.encode_open("gpiochip0")[:cut]
    if cut < 12:
        with pytest.raises(PeerError):
            wire.decode_open(packet)
    else:
        assert wire.decode_open(packet) == ("gpiochip0"[: cut - 12], "")
