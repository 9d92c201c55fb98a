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


@given(st.text(max_size=10))
def test_the_name_of_an_open_comes_back(name: str) -> None:
    assert wire.decode_open(wire.encode_open(name)) == name


@given(
    st.integers(0, 2**32 - 1), st.sampled_from(COMMANDS), st.binary(min_size=600, max_size=600), st.booleans()
)
def test_an_ioctl_comes_back(tag: int, cmd: int, raw: bytes, compat: bool) -> None:
    argument = raw[: u.ioc_size(cmd)]
    packet = wire.encode_ioctl(tag, cmd, argument, compat)
    assert len(packet) <= wire.PACKET_MAX
    assert wire.decode_ioctl(packet) == (tag, cmd, argument if cmd & WRITES else b"", compat)
    for wrong in (packet[:-1], packet + b"\0"):
        with pytest.raises(PeerError):
            wire.decode_ioctl(wrong)


@given(st.integers(0, 2**32 - 1), st.integers(0, 133), st.binary(max_size=600))
def test_an_answer_comes_back(tag: int, errno: int, argument: bytes) -> None:
    fd_at = max(len(argument) - 4, 0)
    reply = wire.decode_reply(wire.encode_answer(tag, Answer(errno, argument or None, None, fd_at)))
    assert reply == (tag, errno, fd_at, argument or None)


@given(st.binary(max_size=64))
def test_anything_else_is_refused_and_nothing_worse(packet: bytes) -> None:
    for decode in (wire.decode_open, wire.decode_ioctl, wire.decode_reply):
        with contextlib.suppress(PeerError):
            decode(packet)


@pytest.mark.parametrize("cut", range(12 + 9))
def test_an_open_that_is_cut_short_is_refused_or_shorter(cut: int) -> None:
    packet = wire.encode_open("gpiochip0")[:cut]
    if cut < 12:
        with pytest.raises(PeerError):
            wire.decode_open(packet)
    else:
        assert wire.decode_open(packet) == "gpiochip0"[: cut - 12]
