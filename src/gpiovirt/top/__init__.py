# SPDX-License-Identifier: MIT
"""Chips in a terminal: lines, holders, levels over time."""
