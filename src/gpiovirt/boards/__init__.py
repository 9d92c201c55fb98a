# SPDX-License-Identifier: MIT
"""Boards that a program can be made to believe it runs on: TOML files of facts, here or a user's own."""

from __future__ import annotations

from gpiovirt.boards.board import Board, BoardChip, Header, Hog, Pin, load, names

__all__ = ["Board", "BoardChip", "Header", "Hog", "Pin", "load", "names"]
