# SPDX-License-Identifier: MIT
"""Rules of a virtual chip: what its consumers, whoever they are, may not do with its lines.

A rule judges changes before they are made; RuledDriver asks all of them. Levels are those of the virtual
chip's lines, with its definition's active-low applied: 1, 0, or None while a line is not driven. Times are
in ns on CLOCK_BOOTTIME, which neither a restart of ours nor a suspended machine sets back.
"""
